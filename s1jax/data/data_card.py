"""The README.md beside a curated set: what is in it, how it was made, and what may be done with it.

In the form of a dataset card of the hub, so that the directory can be uploaded as it is.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s1jax.curation_config import Curate, Pool
from s1jax.data.decontaminate import WORDS
from s1jax.data.funnel import Pick, Stage
from s1jax.data.report import cell, domain_table, one_line, source_table, stage_table

# The hub's categories of size: the first number of examples that is too many for each.
_SIZES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}

COLUMNS = {
    "question": "what was asked",
    "solution": "the source's solution: worked, a proof, or the bare answer; null if it has none",
    "cot_type": "s1's kind of question: math, science, coding, english, crossword, health science",
    "source_type": "the data set that the question is from, and its part",
    "metadata": "the other columns of the source, as JSON",
    "cot": "always null, as in s1",
    "thinking_trajectories": "what the teacher thought: a list of one text",
    "attempt": "what the teacher answered",
    "text": "question, thinking and answer in the format of the chat, as it is trained",
    "id": "the first 16 hex digits of the sha256 of the question; of a further sample with its"
    " number behind a slash",
    "answer": "the final answer, where the source has it apart from its solution",
    "teacher": "who was asked",
    "version": "what the teacher's server said that it ran",
    "settings": "what was asked for: temperature, limits of tokens; JSON",
    "finish": '"stop": the teacher ended by itself',
    "is_summary": "whether the thinking is the teacher's own summary of it",
    "prompt_tokens": "tokens of the prompt, as the teacher counts them",
    "thinking_tokens": "tokens of the thinking, by the tokenizer of the curation",
    "answer_tokens": "tokens of the answer, as the teacher counts them",
    "domain": "the subject of the question",
    "correct": "whether the teacher's answer is right; null if nobody can tell",
    "picked": "why the question was selected",
}

_DECONTAMINATION = {
    "strict": f"A question is dropped if it shares {WORDS} words in a row with one of them (s1's"
    " rule; case and white space aside), if it does so once punctuation and LaTeX are aside as"
    " well, or if it is shorter and as a whole the same.",
    "s1": f"A question is dropped if it shares {WORDS} words in a row with one of them, case and"
    " white space aside (s1's rule). One of less words cannot be caught.",
}
_DIFFICULTY = {
    "attempts": "a question is dropped if one of the asked models solved it, or nobody can tell",
    "grades": "a question is dropped if one of two models solved it, by a file of grades, or nobody"
    " can tell",
    "known": "a question is dropped if its difficulty, as its source gives it, is too low",
    "none": "not looked at",
}
_DOMAINS = {
    "words": "a local classifier (TF-IDF over the words of 61 subjects of the MSC)",
    "model": "a model that was shown the 61 subjects of the MSC",
    "given": "the source, or a file of grades",
}
_SELECTION = {
    "s1": "s1's sampling: what is like the benchmarks first, then by domains, long thinking first",
    "random": "an ablation of s1: all candidates are as likely",
    "diverse": "an ablation of s1: uniform over the domains, whatever the length",
    "longest": "an ablation of s1: the longest thinking",
    "full": "an ablation of s1: all candidates",
}
_MODES = {
    "s1": "as its published notebook means it",
    "paper": "by algorithm 1 of the paper",
    "parity": "as its published notebook does it, slips included",
}
_CONTROLS = {
    "tokens": "Each question asks for an amount of thinking in tokens (s1's token-conditional"
    " control).",
    "steps": "Each question asks for an amount of thinking in steps (s1's step-conditional"
    " control).",
}


@dataclass(frozen=True)
class Card:
    """What a data card tells. A source is what the config calls it."""

    name: str  # of the data set
    command: str  # that made it
    seed: int
    config_digest: str
    pool: Pool
    curate: Curate
    funnel: Sequence[Stage]
    picks: Sequence[Pick]
    sources: Mapping[str, int]  # rows by source, in their order
    kept: Mapping[str, int]  # questions by source after the cleaning
    selected: Mapping[str, int]  # picks by source
    tokens: Mapping[str, Sequence[int]]  # of thinking, by source
    licences: Mapping[str, str]  # by source, where they are known
    evaluation_sets: Mapping[str, int]  # questions by name
    correct: int = 0  # picks whose answer is right
    wrong: int = 0
    pictures: Sequence[str] = ("funnel.png", "domains.png", "lengths.png")  # beside it


def data_card(card: Card) -> str:
    """The README.md, with the front matter that the hub reads."""
    sections = {
        "How it was made": _making(card),
        "The funnel": [_pictures(card, "funnel"), stage_table(card.funnel)],
        "Domains": [_pictures(card, "domains"), domain_table(card.picks)],
        "Sources": [
            source_table(card.sources, card.kept, card.selected, card.tokens),
            _pictures(card, "lengths"),
        ],
        "Columns": [_list({f"`{name}`": what for name, what in COLUMNS.items()})],
        "Decontamination": [_decontamination(card)],
        "Licences and provenance": _provenance(card),
        "Limits": [_limits(card)],
    }
    blocks = [_front_matter(card), f"# {cell(card.name)}", _introduction(card)]
    for heading, content in sections.items():
        blocks += [f"## {heading}", *content]
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


def _front_matter(card: Card) -> str:
    count = len(card.picks)
    size = next((size for limit, size in _SIZES.items() if count < limit), "10M<n<100M")
    lines = [
        "---",
        # A string of JSON is one of YAML, whatever is in it.
        f"pretty_name: {json.dumps(one_line(card.name), ensure_ascii=False)}",
        "license: other",
        "language:",
        "- en",
        "task_categories:",
        "- text-generation",
        "tags:",
        "- s1",
        "- reasoning",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: curated.jsonl",
        "---",
    ]
    return "\n".join(lines)


def _introduction(card: Card) -> str:
    count = len(card.picks)
    tokens = sum(pick.candidate.thinking_tokens for pick in card.picks)
    domains = len({pick.candidate.domain for pick in card.picks})
    rows = sum(card.sources.values())
    lines = [
        f"{count:,} questions of {domains:,} domains with a teacher's thinking ({tokens:,} tokens)"
        f" and answer, for training a model to think before it answers. They were selected from"
        f" {rows:,} rows with s1jax, by the recipe of s1 (arXiv 2501.19393)."
    ]
    if card.curate.control != "none":
        lines.append(_CONTROLS[card.curate.control])
    return "\n".join(lines)


def _making(card: Card) -> list[str]:
    cur = card.curate
    selection = _SELECTION[cur.selection]
    if cur.selection == "s1":
        selection += f"; {_MODES[cur.mode]}"
    reasons = Counter(pick.reason for pick in card.picks)
    difficulty = _DIFFICULTY[cur.difficulty if cur.selection == "s1" else "none"]
    facts = {
        "Seed": str(card.seed),
        "Config": f"sha256 {cell(card.config_digest)}",
        "Teacher": _teachers(card.picks),
        "Thinking": _thinking(card.picks),
        "Duplicates": _duplicates(card.pool),
        "Difficulty": difficulty,
        "Domains": f"named by {_DOMAINS[cur.domains]}",
        "Selection": selection,
        "Selected": "; ".join(f"{cell(why)} ({n:,})" for why, n in _by_count(reasons)) or "nothing",
        "Correct": _correct(card),
    }
    # Indented, not fenced: no text of one line can end such a block.
    return [
        f"    {one_line(card.command, 2000)}",
        _list({f"**{name}**": what for name, what in facts.items()}),
    ]


def _duplicates(pool: Pool) -> str:
    if pool.near_duplicates > 1:
        return "of the same text the first is kept"
    return (
        "the first is kept of the same text, and of questions that ask for the same with a Jaccard"
        f" similarity from {pool.near_duplicates:g} on"
    )


def _teachers(picks: Sequence[Pick]) -> str:
    traces = [pick.candidate.trace for pick in picks]
    names = Counter(
        f"{cell(trace.teacher)}, version {cell(trace.version) or 'unknown'}" for trace in traces
    )
    return "; ".join(f"{name} ({count:,})" for name, count in _by_count(names)) or "nobody"


def _thinking(picks: Sequence[Pick]) -> str:
    summaries = sum(pick.candidate.trace.is_summary for pick in picks)
    if not summaries:
        return "as the teacher wrote it"
    which = "all are" if summaries == len(picks) else f"{summaries:,} of {len(picks):,} are"
    return f"{which} the teacher's own summary of its thinking, not the thinking itself"


def _correct(card: Card) -> str:
    graded = card.correct + card.wrong
    if not graded:
        return "not known: no answer could be compared with a reference"
    return (
        f"{card.correct:,} of {graded:,} ({card.correct / graded:.1%}) answers that could be graded"
        " are right: by a file of grades if one was given, else compared with the reference on this"
        " machine, or by a judge where the reference is a proof"
    )


def _pictures(card: Card, name: str) -> str:
    """The picture of that name, if there is one."""
    captions = {
        "funnel": "What is left of the questions after each stage",
        "domains": "The domains of the candidates and of the selected",
        "lengths": "How long the thinking of the candidates and of the selected is",
    }
    file = f"{name}.png"
    return f"![{captions[name]}]({file})" if file in card.pictures else ""


def _decontamination(card: Card) -> str:
    sets = ", ".join(f"{cell(name)} ({n:,} questions)" for name, n in card.evaluation_sets.items())
    rule = _DECONTAMINATION.get(card.pool.decontaminate)
    if not sets or rule is None:
        return "None: the questions were compared with no evaluation set."
    return f"Against {sets}. {rule} Only questions were compared, never solutions or traces."


def _provenance(card: Card) -> list[str]:
    known = {
        cell(source): cell(card.licences.get(source, "")) or "not known here: ask its owner"
        for source in card.sources
    }
    rows = [f"| {source} | {licence} |" for source, licence in known.items()]
    return [
        "Each question keeps the licence of its source; `source_type` says which that is. Check"
        " the licences before you publish the set:",
        "\n".join(["| source | licence |", "| --- | --- |", *rows]),
        "Thinking and answers are the teacher's. Where they came through a provider's API, they"
        " carry that provider's terms, which may forbid some uses, training among them.",
    ]


def _limits(card: Card) -> str:
    pool, cur = card.pool, card.curate
    limits = {
        f"The order of the sources matters: a question that shares {WORDS} words in a row with one"
        " of an earlier source was dropped, so later sources are smaller than they were.": (
            pool.earlier_sources and len(card.sources) > 1
        ),
        "A question that the teacher answered wrong may be here: as in s1, most are selected"
        " whether the answer is right or not.": card.correct < len(card.picks),
        "The local classifier looks at words alone, and names the wrong domain for some"
        " questions.": cur.domains == "words",
        "The classifier is a model, and names the wrong domain for some questions.": (
            cur.domains == "model"
        ),
        "Hard is here what the asked models did not solve; with other models the set would be"
        " another.": cur.selection == "s1" and cur.difficulty in ("attempts", "grades"),
        "A summary leaves out what the teacher tried and gave up, so models trained on it think"
        " in another manner than the teacher.": any(
            pick.candidate.trace.is_summary for pick in card.picks
        ),
        "A paraphrase, or a translation, of a test question is found by no rule used here.": True,
        "The same pool, traces, config and seed give the same set; a teacher asked again would"
        " answer otherwise.": True,
    }
    return "\n".join(f"- {limit}" for limit, applies in limits.items() if applies)


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _list(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {what}" for name, what in facts.items())
