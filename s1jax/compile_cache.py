"""Compiled programs are kept on disk: the same command begins sooner the next time.

JAX keeps them where it is told to, under a key of the program, the compiler's version and flags,
and the devices. Its own environment variables come first: JAX_COMPILATION_CACHE_DIR names another
directory, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing, JAX_COMPILATION_CACHE_MAX_SIZE (bytes)
and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS are the limits. A program that cannot be read back is
compiled again, with a warning of JAX's. What lies there runs as code: nobody else may write to it.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from s1jax.distributed import says_several
from s1jax.progress import say

LIMIT_BYTES = 2 * 2**30  # of all together; what was not used for the longest time goes first
SHORTEST_S = 0.1  # of a compilation that is worth a file
_WRITTEN_S = 60.0  # a file that is older is not being written any more


def keep_compiled(workdir: Path | None = None) -> None:
    """Has JAX keep what it compiles from now on, and take up what is kept.

    A job of several processes has its own directory in `workdir`, which all its hosts share: JAX
    lets process 0 alone write, so that of directories of each host's own the others would stay
    empty, and these hosts would compile while the first one waits. Where the user's cache cannot be
    used nothing is kept, and a sentence says so.
    """
    import jax

    options: Any = jax.config  # whose names exist at run time only
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not options.jax_enable_compilation_cache:
        return
    _default("jax_persistent_cache_min_compile_time_secs", SHORTEST_S)
    if workdir is not None and says_several():
        # Without a limit, for which each process would lock the directory whenever it reads.
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        return
    _default("jax_compilation_cache_max_size", LIMIT_BYTES)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        directory = Path(cache).expanduser().absolute() / "s1jax" / "compiled"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # JAX would find out at every program, and warn of each.
        with tempfile.TemporaryFile(dir=directory) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        if options.jax_compilation_cache_max_size != -1:
            _remove_halves(directory)
    except (OSError, RuntimeError) as error:  # the latter where nobody's home can be found
        said = error.strerror if isinstance(error, OSError) else error
        say(f"compiled programs are not kept: {cache}/s1jax/compiled cannot be used ({said})")
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))


def _default(option: str, value: float) -> None:
    """Sets an option of JAX's that the environment does not set."""
    import jax

    if option.upper() not in os.environ:
        jax.config.update(option, value)


def _remove_halves(directory: Path) -> None:
    """Removes programs whose writing was cut short.

    JAX writes a program, then beside it when it was used last. It would warn of a half one at every
    start and not replace it, and without that second file it can never make room again.
    """
    for path in directory.glob("*-cache"):
        used = path.with_name(path.name.removesuffix("-cache") + "-atime")
        with contextlib.suppress(FileNotFoundError):  # another process made room
            if not used.exists() and time.time() - path.stat().st_mtime > _WRITTEN_S:
                path.unlink()
