"""The pool of the little world, its held-out questions, and the program that is its teacher.

What curation has to catch is in the pool: questions with figures and broken formatting, repeated
ones, ones of the held-out set, and a teacher that is wrong, gives up or fails like a server does.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from s1jax.curation_config import Teacher
from s1jax.data.decontaminate import plain
from s1jax.data.teachers import Asked, Passing, Prompt, Refused, Reply, name_of
from s1jax.mini.numbers import LARGEST, values, words
from s1jax.mini.tasks import ANSWER, FAMILIES, difficulty, family, solve, think, verify
from s1jax.mini.thinking import STOPS
from s1jax.types import Question, UserError

QUESTIONS, HELD_OUT = 3_000, 500  # held out: of each family
_HELD_OUT_SEED = 20_240_417  # of no pool
_FIGURE, _PAGE = "\n[asy] draw((0,0)--(1,1)); [/asy]", " (Book p12. of 40)"
_SPOILT = {_FIGURE: 0.02, _PAGE: 0.02}  # what is added to a share of the questions
_REPEATED, _LEAKED = 0.02, 0.01  # shares that are there twice, or are held-out ones
_WRONG, _CUT, _REFUSED, _BUSY = 0.04, 0.03, 0.01, 0.05  # shares of the teacher's replies
_WORDS = 8  # in a row: a question that shares them with a held-out one would be a leak of it


def pool(seed: int = 0) -> list[Question]:
    """The questions, the bad ones among them; the same for a seed, whoever asks."""
    rng = np.random.default_rng([seed, 1])
    forbidden = held_out()
    texts: list[str] = []
    for text in distinct(rng, QUESTIONS, forbidden):
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


@functools.cache
def held_out(name: str | None = None) -> tuple[str, ...]:
    """Questions that no training set may hold, those of the evaluation: of a family, or of all."""
    if name is None:
        return tuple(text for one in FAMILIES for text in held_out(one))
    rng = np.random.default_rng([_HELD_OUT_SEED, list(FAMILIES).index(name)])
    texts: dict[str, None] = {}
    while len(texts) < HELD_OUT:
        texts[FAMILIES[name].ask(rng)] = None
    return tuple(texts)


def evaluation_rows(name: str | None = None) -> list[tuple[str, dict[str, str]]]:
    """A family's held-out questions as rows of an evaluation's task, and where each is.

    Without a name a fifth of each family's, the families in turn.
    """
    if name is None:
        families = zip(*(evaluation_rows(one) for one in FAMILIES), strict=True)
        return [row for rows in families for row in rows][:HELD_OUT]
    return [
        (
            f"mini: held-out question {number} (from 0) of {name}",
            {"question": text, "answer": solve(text), "family": name},
        )
        for number, text in enumerate(held_out(name))
    ]


def distinct(rng: np.random.Generator, count: int, without: Sequence[str]) -> list[str]:
    """Different questions that share no run of words with those that they must be `without`.

    Of each family as many as its share says.
    """
    runs = {run for text in without for run in _runs(text)}
    shares = [one.share for one in FAMILIES.values()]
    texts: dict[str, None] = {}
    while len(texts) < count:
        one = FAMILIES[str(rng.choice(list(FAMILIES), p=shares))]
        while not runs.isdisjoint(_runs(text := one.ask(rng))):
            pass
        texts[text] = None
    return list(texts)


def _runs(text: str) -> set[str]:
    """All runs of words, as they are and as decontamination looks past punctuation."""
    return {
        " ".join(said[at : at + _WORDS])
        for said in (text.lower().split(), plain(text).split())
        for at in range(max(len(said) - _WORDS, 0) + 1)
    }


def _question(text: str, number: int) -> Question:
    bare = unspoilt(text)
    answer = solve(bare)
    name = family(bare)
    return Question(
        question=text,
        solution=answer,
        source_type=f"mini/{name}",
        answer=answer,
        domain=FAMILIES[name].domain,
        difficulty=float(difficulty(bare)),
        place=f"mini: question {number} (from 0)",
    )


def unspoilt(text: str) -> str:
    """The question without what was added to spoil it."""
    for addition in _SPOILT:
        text = text.replace(addition, "")
    return text


class Program(Asked):
    """The teacher of the little world: a program that thinks aloud, and is not perfect.

    What it says depends on the seed, the question and the sample, and on its habit of giving up,
    which `distill.model` may set: "stops=0.3". UserError if that is no probability.
    """

    varies = False

    def __init__(self, cfg: Teacher, seed: int = 0):
        self.name = name_of(cfg)
        self._stops = _stops(cfg.model)
        self.settings = {"via": cfg.via, "seed": seed, "stops": self._stops}
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
        question = unspoilt(prompt.text)
        try:
            difficulty(question)  # also of those that it will give up
            thinking, answer = think(question, rng, self._stops)
        except (ValueError, LookupError):  # of no form that it knows, or without an end
            raise Refused("this teacher knows the questions of the little world alone") from None
        if rng.random() < _WRONG:
            answer = _wrong(question, answer)
        answer = ANSWER + answer
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


def _stops(model: str) -> float:
    try:
        stops = float(model.removeprefix("stops=")) if model else STOPS
    except ValueError:
        stops = -1
    if not 0 <= stops < 1:
        raise UserError(f'model="{model}" must say how often it gives up: "stops=0.3", below 1')
    return stops


def _wrong(question: str, answer: str) -> str:
    """Another answer of the same form: its first word is the last, or the next number or letter."""
    first, *others = answer.split(" ")
    if others:
        other = " ".join([*others, first])
    elif number := values(first):
        other = words([(number[0] + 1) % (LARGEST + 1)])
    else:
        other = chr(ord("a") + (ord(first) - ord("a") + 1) % 12)
    return answer if verify(question, other) else other
