"""The pool of the little world, its held-out questions, and the program that is its teacher.

What curation has to catch is in the pool: questions with figures and broken formatting, repeated
ones, ones of the held-out set, and a teacher that is wrong, gives up or fails like a server does.
"""

from dataclasses import replace

import numpy as np

from s1jax.curation_config import Teacher
from s1jax.data.teachers import Asked, Passing, Prompt, Refused, Reply, name_of
from s1jax.mini.tasks import ask, family, size, solve, think
from s1jax.types import Question

QUESTIONS, HELD_OUT = 2_400, 100
_DOMAINS = {"sum": "Arithmetic", "order": "Computer science", "factor": "Arithmetic"}
_FIGURE, _PAGE = "\n[asy] draw((0,0)--(1,1)); [/asy]", " (Book p12. of 40)"
_SPOILT = {_FIGURE: 0.02, _PAGE: 0.02}  # what is added to a share of the questions
_REPEATED, _LEAKED = 0.02, 0.01  # shares that are there twice, or are held-out ones
_WRONG, _CUT, _REFUSED, _BUSY = 0.08, 0.03, 0.01, 0.05  # shares of the teacher's replies


def pool(seed: int = 0) -> list[Question]:
    """The questions, the bad ones among them; the same for a seed, whoever asks."""
    rng = np.random.default_rng([seed, 1])
    forbidden = held_out(seed)
    texts: list[str] = []
    fresh = _distinct(rng, QUESTIONS, set(forbidden))
    for text in fresh:
        draw = rng.random()
        if draw < _LEAKED:
            text = forbidden[rng.integers(len(forbidden))]
        elif draw < _LEAKED + _REPEATED and texts:
            text = texts[rng.integers(len(texts))]
        for addition, share in _SPOILT.items():
            if rng.random() < share:
                text += addition
        texts.append(text)
    return [_question(text, number) for number, text in enumerate(texts)]


def held_out(seed: int = 0) -> list[str]:
    """Questions that no training set may hold: those of the evaluation."""
    return _distinct(np.random.default_rng([seed, 2]), HELD_OUT, set())


def evaluation_rows(seed: int = 0) -> list[tuple[str, dict[str, str]]]:
    """The held-out questions as rows of an evaluation's task, and where each is."""
    return [
        (
            f"mini: held-out question {number} (from 0)",
            {"question": text, "answer": solve(text), "family": family(text)},
        )
        for number, text in enumerate(held_out(seed))
    ]


def _distinct(rng: np.random.Generator, count: int, without: set[str]) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = ask(rng)
        if text not in without:
            texts[text] = None
    return list(texts)


def _question(text: str, number: int) -> Question:
    plain = _plain(text)
    answer = solve(plain)
    return Question(
        question=text,
        solution=answer,
        source_type=f"mini/{family(plain)}",
        answer=answer,
        domain=_DOMAINS[family(plain)],
        difficulty=float(size(plain)),
        place=f"mini: question {number} (from 0)",
    )


def _plain(text: str) -> str:
    for addition in _SPOILT:
        text = text.replace(addition, "")
    return text


class Program(Asked):
    """The teacher of the little world: a program that thinks aloud, and is not perfect.

    What it says depends on the seed, the question and the sample, and on nothing else.
    """

    varies = False

    def __init__(self, cfg: Teacher, seed: int = 0):
        self.name = name_of(cfg)
        self.settings = {"via": cfg.via, "seed": seed}
        self._seed = seed
        self._failed: set[tuple[str, int]] = set()

    async def ask(self, prompt: Prompt) -> Reply:
        """See asked.Asked. Refused for a share of the questions, Passing once for another."""
        rng = np.random.default_rng([self._seed, int(prompt.id, 16), prompt.sample])
        if rng.random() < _REFUSED:
            raise Refused("the teacher will not answer this question")
        if rng.random() < _BUSY and (prompt.id, prompt.sample) not in self._failed:
            self._failed.add((prompt.id, prompt.sample))
            raise Passing("HTTP 503: the teacher is busy", delay_s=0.0, charged=False)
        question = _plain(prompt.text)
        try:
            thinking, answer = think(question, rng)
        except (StopIteration, ValueError):  # of no form that it knows, or with other numbers
            raise Refused("this teacher knows the questions of the little world alone") from None
        if rng.random() < _WRONG:
            wrong = _wrong(answer)
            thinking, answer = thinking.replace(answer, wrong), wrong
        reply = Reply(
            thinking,
            answer,
            "stop",
            version="1",
            prompt_tokens=len(prompt.text.split()),  # of a program: words
            thinking_tokens=len(thinking.split()),
            answer_tokens=len(answer.split()),
        )
        if rng.random() < _CUT:
            reply = replace(reply, thinking=thinking[: len(thinking) // 2], answer="")
            return replace(reply, finish="length", detail="cut at its limit")
        return reply


def _wrong(answer: str) -> str:
    """Another answer of the same form: its last number is one more."""
    *before, last = answer.split(" ")
    return " ".join([*before, str(int(last) + 1)])
