"""Keeps from the user what Orbax and tensorstore print about a failed save, besides raising it.

The error reaches the caller once, as it should. Before that, each of Orbax's threads logs its
traceback, asyncio another for each write that failed too, and tensorstore one for each write that
found its event loop closed: some hundred lines above the one sentence that says the disk is full.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def silence_failed_saves() -> None:
    """Filters those three, and nothing else, from now on; to be called once."""
    logging.getLogger("absl").addFilter(
        lambda record: not (record.exc_info and "orbax" in Path(record.pathname).parts)
    )
    logging.getLogger("asyncio").addFilter(
        lambda record: "async_serialize_from_host" not in record.getMessage()
    )
    previous = sys.unraisablehook

    def hook(unraisable: "UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook
