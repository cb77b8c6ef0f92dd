"""How the teacher of the little world thinks aloud: line by line, and not always to the end.

Where a thinker cannot know yet whether it is done, it stops with a probability of its own; if it
goes on, it says "Wait" first. So what it stops at is what budget forcing can carry it over.
"""

import numpy as np

Rng = np.random.Generator

STEP = "\n\n"  # between two steps of a thinking, as s1's step-conditional control divides them
# What it says before it goes on, and how often: mostly s1's word, now and then another.
AGAIN = {"Wait": 0.8, "Hmm": 0.15, "Alternatively": 0.05}
# How often it gives up. Curation prefers long thinkings, which passed the first place where they
# could: it has to be above one half at the next one, or a model that learns of it never would.
STOPS = 0.7
LOOKS_AGAIN = 0.3  # how often it checks what it is sure of


class Thinker:
    """Writes down one thinking; `stops` is how often it gives up where it could go on."""

    def __init__(self, rng: Rng, stops: float):
        self.text = ""
        self._rng = rng
        self._stops = stops

    def write(self, step: str) -> None:
        """Adds a step."""
        self.text += STEP + step if self.text else step

    def gives_up(self) -> bool:
        """Whether it stops here, unfinished; if not, it has said that it goes on."""
        if self._rng.random() < self._stops:
            return True
        self._again()
        return False

    def look_again(self, step: str) -> None:
        """Says once more what is known, perhaps, and perhaps more than once."""
        while self._rng.random() < LOOKS_AGAIN:
            self._again()
            self.write(step)

    def _again(self) -> None:
        self.text += "\n" + str(self._rng.choice(list(AGAIN), p=list(AGAIN.values())))


class Straight(Thinker):
    """Never gives up, and says nothing but steps."""

    def __init__(self, looks_again: bool):
        self.text = ""
        self._looks_again = looks_again

    def gives_up(self) -> bool:
        """Never."""
        return False

    def look_again(self, step: str) -> None:
        """Says it once more, or not."""
        if self._looks_again:
            self.write(step)
