"""The program in which math-verify runs: each item in a child of its own, which can do little.

`grading.Grader` starts it as a process; it is never imported. Model output is hostile, and sympy's
parsers can run what they read. A child has so many seconds and bytes; it writes no file, starts no
process, opens no socket, makes no code of text but of single numbers and names, and all that it can
say is one number, its exit status. The fork makes every item start from the same state: what came
before cannot change a verdict.
"""

import contextlib
import json
import os
import re
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
# All that math-verify and sympy compile when they read and compare formulas: found by listing it.
_SYMPYS_CODE = re.compile(
    r"from sympy import \*\Z|(?:Integer|Float|Rational|Symbol) \('?[\w.+-]*'? \)\Z"
    r"|[a-zA-Z]{1,9} ?\Z|def monomial_[a-z]{2,8}\(A(?:, [Bk]){1,2}\):\n"
)

Pairs = list[tuple[str, str]]
_KINDS: Pairs = [  # of formulas, each pair compared to its end
    (r"\frac{1}{2}x^2", "x^2/2"),
    ("(3,4]", r"\{3,4\}"),
    (r"\sqrt{8}", "2.8"),
    (r"2\sqrt{3}+\sqrt{2}", r"\sqrt{12}-\sqrt{2}"),
    ("x^4-x^2+1", r"(x^2+\sqrt{3}x+1)(x^2-x+1)"),
    ("(x-1)^2+(y+2)^2=9", "x^2+4y^2=36"),
    (r"1-\cos^2 x", r"\sin^2 x+\tan x"),
    (r"3+\log_2 7", r"\log_2 21"),
    (r"2e^{i\pi/3}", r"1+ i \sqrt{3}"),
    (r"\binom{9}{4}", "5!"),
    (r"\int_0^1 x dx", r"\sum_{k=1}^{10} k"),
]
Equal = Callable[[Pairs], bool]


def main() -> None:
    """Answers each line on stdin, pairs as JSON, with one word of OUTCOMES, or "crashed"."""
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    equal = _load()
    _say("ready")
    for line in sys.stdin:
        pairs = json.loads(line)
        child = os.fork()
        if child == 0:
            _judge(equal, pairs, seconds, memory_bytes)
        _, status = os.waitpid(child, 0)
        _say(OUTCOMES.get(os.waitstatus_to_exitcode(status), "crashed"))


def _load() -> Equal:
    import logging

    import sympy
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    # Only LaTeX: the other ways of math-verify hand text to Python's own parser, or take the
    # numbers out of a sentence. Its timeouts are off: they are signals, and it catches them.
    latex = [LatexExtractionConfig()]

    def read(text: str) -> list:
        """What a formula may be; its i is the imaginary unit, to math-verify a variable."""
        found = parse(f"${text}$", latex, parsing_timeout=0)
        units = [
            {s: sympy.I for s in getattr(one, "free_symbols", ()) if str(s) == "i"} for one in found
        ]
        return [one.subs(unit) if unit else one for one, unit in zip(found, units, strict=True)]

    def equal(pairs: Pairs) -> bool:
        for pair in pairs:
            gold, given = map(read, pair)
            if not verify(gold, given, timeout_seconds=0) or _tiny_and_apart(gold, given):
                return False
        return True

    # Builds the parser's tables and loads what is loaded late, once for all children.
    for pair in _KINDS:
        equal([pair])
    return equal


def _tiny_and_apart(gold: list, given: list) -> bool:
    """True of 1e-20 and 2e-20, which math-verify takes for the same: it rounds to decimals."""
    numbers = [one for one in (*gold[:1], *given[:1]) if getattr(one, "is_number", False)]
    sizes: list[float] = []
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # some are but called numbers
        sizes = [abs(complex(number)) for number in numbers]
    return len(sizes) == 2 and max(sizes) < 1e-5 and abs(sizes[0] - sizes[1]) > 1e-6 * max(sizes)


def _judge(equal: Equal, pairs: Pairs, seconds: float, memory_bytes: int) -> None:
    """Ends the process, with a status that is the outcome."""
    status = FAILED
    with contextlib.suppress(BaseException):
        try:
            _confine(seconds, memory_bytes)
            before = _peak_bytes()
            status = EQUAL if equal(pairs) else DIFFERENT
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
    if writes or event.startswith(_FORBIDDEN) or (event == "compile" and _is_code(*arguments)):
        os._exit(FORBIDDEN)


def _is_code(source: object, filename: object) -> bool:
    """True of text that becomes code, but for what sympy makes of a number or a name."""
    if str(filename).endswith(".py") or source is None:  # a late import; a tree that was text
        return False
    text = source.decode(errors="replace") if isinstance(source, bytes) else str(source)
    return _SYMPYS_CODE.match(text) is None


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
