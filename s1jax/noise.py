"""Keeps from the user what libraries print besides raising it, or of what nobody asked for.

Of a failed save the error reaches the caller once, as it should. Before that, each of Orbax's
threads logs its traceback, asyncio another for each write that failed too, and tensorstore one for
each write that found its event loop closed: some hundred lines above the one sentence that says the
disk is full.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
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


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Within it nothing reaches stderr, from C++ neither.

    For compilers of absent machines, which tell in dozens of lines that those are absent. What they
    raise they raise all the same.
    """
    sys.stderr.flush()
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
