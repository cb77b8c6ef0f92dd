"""A profiler's trace of a few steps, where the config asks for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from s1jax import config


class Profile:
    """Traces the steps of `train.profile_step` and `train.profile_steps` that this process runs.

    A run that goes on inside of them traces the others, one that ends there what it has seen. Only
    process 0 traces: processes of one machine would write the same file.
    """

    def __init__(self, train: config.Train, directory: Path, say: Callable[[str], None]):
        first = train.profile_step
        self._steps = range(0) if first is None else range(first, first + train.profile_steps)
        if jax.process_index() != 0:
            self._steps = range(0)
        self.directory, self._say = directory, say
        self._traced: list[int] = []
        self._running = False

    def before(self, step: int, state: Any) -> None:
        """Begins or ends the trace, if it is time to; `state` is what the step will start from."""
        if step not in self._steps:
            self.end(state)
            return
        if not self._running:
            # So that the trace holds whole steps. Waits at most twice in a run.
            jax.block_until_ready(state)
            # Without Python's own calls: to hook them in other threads has crashed a process.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(self.directory, profiler_options=options)
            self._running = True
        self._traced.append(step)

    def end(self, state: Any) -> None:
        """Ends a trace that was begun, when the state is there, and says where it lies."""
        if not self._running:
            return
        jax.block_until_ready(state)
        self.close()
        first, last = self._traced[0], self._traced[-1]
        steps = f"step {first}" if first == last else f"steps {first} to {last}"
        self._say(
            f"profile of {steps} (the first is 0) written: pip install xprof;"
            f" xprof --logdir={self.directory}; or open the *.trace.json.gz in it at"
            " https://ui.perfetto.dev"
        )

    def close(self) -> None:
        """Ends a trace at once, so that another may begin."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
