"""A line that tells how far long work is, and numbers as a reader likes them."""

import sys
import time

SECONDS_BETWEEN_LINES = 5.0  # of progress, where they cannot be written over each other


class Progress:
    """`distill: 120/500 questions  3.2/s  $0.12  1 min 59 s left`, on stderr.

    On a terminal it is written over the one before, elsewhere a line every few seconds. The rate
    is that of this run: what was there before it counts as done, not as fast.
    """

    def __init__(self, verb: str, unit: str, total: int, done: int = 0):
        self.verb, self.unit, self.total, self.done = verb, unit, total, done
        self._before, self._started = done, time.monotonic()
        self._in_place = sys.stderr.isatty()
        self._shown = self._started
        self._open = False

    def show(self, note: str = "", last: bool = False) -> None:
        """Shows the line with this note, if the last one is old or this is the end."""
        now = time.monotonic()
        if not last and now - self._shown < (0.2 if self._in_place else SECONDS_BETWEEN_LINES):
            return
        self._shown = now
        spent, made = now - self._started, self.done - self._before
        text = f"{self.verb}: {self.done}/{self.total} {self.unit}"
        if made and spent > 0:
            text += f"  {format_count(made / spent)}/s"
        text += f"  {note}" if note else ""
        if made and not last:
            text += f"  {format_seconds((self.total - self.done) * spent / made)} left"
        before, after = ("\r", "\x1b[K") if self._in_place else ("", "\n")
        sys.stderr.write(f"{before}{text}{after}")
        self._open = self._in_place
        if last:
            self.end()
        sys.stderr.flush()

    def end(self) -> None:
        """Leaves the line as it is, so that something else can be said."""
        if self._open:
            sys.stderr.write("\n")
            self._open = False


def say(text: str) -> None:
    """Tells one thing on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def format_bytes(n: float | int) -> str:
    """`3.2 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if n >= 1024**power:
            return f"{n / 1024**power:.1f} {unit}"
    return f"{n:.0f} B"


def format_count(n: float | int) -> str:
    """`12.3k`, `1.54B`: three digits that count."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:  # from there on three digits round up to it
            return f"{n / limit:.3g}{unit}"
    return f"{n:.3g}"


def format_seconds(seconds: float | int) -> str:
    """`42 s`, `3 min 07 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
