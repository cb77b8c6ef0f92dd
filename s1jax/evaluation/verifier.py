"""The program in which math-verify runs: each item in a child of its own, which can do little.

`grading.Grader` starts it as a process; it is never imported. Model output is hostile, and sympy's
parsers can run what they read. A child has so many seconds and bytes; it writes no file, starts no
process, opens no socket, and all that it can say is one number, its exit status. The fork makes
every item start from the same state: what came before cannot change a verdict.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable

EQUAL, DIFFERENT, OUT_OF_MEMORY, FORBIDDEN, FAILED = range(10, 15)
OUTCOMES = {
    EQUAL: "equal",
    DIFFERENT: "different",
    OUT_OF_MEMORY: "memory",
    FORBIDDEN: "forbidden",
    -signal.SIGALRM: "timeout",
    -signal.SIGXCPU: "timeout",
}
# Begin the names of the events (PEP 578) after which a child ends.
_FORBIDDEN = (
    "ctypes.dl", "ftplib.", "http.", "os.chmod", "os.chown", "os.exec", "os.fork", "os.kill",
    "os.link", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir",
    "os.spawn", "os.symlink", "os.system", "os.truncate", "pty.", "shutil.", "signal.",
    "socket.", "sqlite3.", "subprocess.", "tempfile.", "urllib.", "webbrowser.",
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Equal = Callable[[str, str], bool]


def main() -> None:
    """Answers each line on stdin, a pair as JSON, with one word of OUTCOMES, or "crashed"."""
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    equal = _load()
    _say("ready")
    for line in sys.stdin:
        reference, answer = json.loads(line)
        child = os.fork()
        if child == 0:
            _judge(equal, reference, answer, seconds, memory_bytes)
        _, status = os.waitpid(child, 0)
        _say(OUTCOMES.get(os.waitstatus_to_exitcode(status), "crashed"))


def _load() -> Equal:
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    # Only LaTeX: the other ways of math-verify hand text to Python's own parser, or take the
    # numbers out of a sentence. Its timeouts are off: they are signals, and it catches them.
    latex = [LatexExtractionConfig()]

    def equal(reference: str, answer: str) -> bool:
        gold, given = (parse(f"${text}$", latex, parsing_timeout=0) for text in (reference, answer))
        return verify(gold, given, timeout_seconds=0)

    # Builds the parser's tables and loads what is loaded late, once for all children.
    for pair in ((r"\frac{1}{2}x^2", "x^2/2"), ("(3,4]", r"\{3,4\}"), (r"\sqrt{8}", "2.8")):
        equal(*pair)
    return equal


def _judge(equal: Equal, reference: str, answer: str, seconds: float, memory_bytes: int) -> None:
    """Ends the process, with a status that is the outcome."""
    status = FAILED
    with contextlib.suppress(BaseException):
        try:
            _confine(seconds, memory_bytes)
            before = _peak_bytes()
            status = EQUAL if equal(reference, answer) else DIFFERENT
            # math-verify takes a MemoryError for "different". What grows by doubling fails when
            # it holds a third of what it may have.
            if status == DIFFERENT and 3 * (_peak_bytes() - before) > memory_bytes - before:
                status = OUT_OF_MEMORY
        except MemoryError:
            status = OUT_OF_MEMORY
    os._exit(status)


def _confine(seconds: float, memory_bytes: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what the child says is not an answer
        os.dup2(nothing, stream)
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # not every system has them all
            resource.setrlimit(kind, (limit, limit))
    signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM is not caught: it ends the child
    sys.addaudithook(_audit)


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _audit(event: str, arguments: tuple) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    if writes or event.startswith(_FORBIDDEN):
        os._exit(FORBIDDEN)


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
