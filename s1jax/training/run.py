"""What is known of a run before its first array is made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from s1jax.config import Config
from s1jax.data.batches import Batches
from s1jax.data.labels import LabelStats
from s1jax.models.hf import HFCheckpoint
from s1jax.training.step import TrainState


@dataclass(frozen=True)
class Run:
    """All that is known before the first array is made."""

    cfg: Config
    workdir: Path
    source: HFCheckpoint
    mesh: jax.sharding.Mesh
    batches: Batches
    labels: LabelStats
    abstract: TrainState
    meta: dict[str, Any]  # what a checkpoint must agree with

    @property
    def checkpoints(self) -> Path:
        """The directory of the run's checkpoints."""
        return self.workdir / "checkpoints"

    @property
    def done(self) -> Path:
        """The file that says that this run has ended, and with what."""
        return self.workdir / "done.json"
