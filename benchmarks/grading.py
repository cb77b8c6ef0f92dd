"""How well, how fast and how safely answers are graded.

    python benchmarks/grading.py [--hostile=answer boxed reference] [--easy=5000] [--workers=2]

Agreement with the labels of tests/labelled_pairs.jsonl and its two siblings by subject, with
every disagreement; pairs per second on those sets, and on pairs that the rules decide. Then each
text of tests/hostile_answers.py alone, in the roles that are asked for: outcomes by kind, and the
slowest. A text that does something makes a file, which is looked for.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from s1jax.evaluation.grading import Grader, Verdict

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

from hostile_answers import KINDS  # noqa: E402  (the tests' directory comes first)

WARM = ("2x", r"\boxed{x+x}")  # for math-verify, so that a worker has started
ROLES = ("answer", "boxed", "reference")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hostile", nargs="*", default=list(ROLES), choices=ROLES, help="roles")
    parser.add_argument("--easy", type=int, default=5000, help="pairs that the rules decide")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with Grader(args.workers) as grader:
        list(grader.grade([WARM] * 2 * args.workers))
        for name in ("labelled_pairs.jsonl", "blind_pairs.jsonl", "unseen_pairs.jsonl"):
            tell_agreement(grader, TESTS / name)
        tell_rate("easy pairs, made up", easy_pairs(args.easy), grader)
    if args.hostile:
        tell_hostile(args.hostile)


def tell_agreement(grader: Grader, path: Path) -> None:
    """The agreement by subject, the confusion, and every disagreement."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    begun = time.perf_counter()
    verdicts = list(grader.grade([(row["reference"], row["answer"]) for row in rows]))
    took = time.perf_counter() - begun
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for row, verdict in zip(rows, verdicts, strict=True):
        cell = f"{'equal' if row['equal'] else 'unequal'} {verdict.correct}"
        for subject in (row["subject"], "all"):
            table[subject][cell] += 1
        if verdict.correct is not row["equal"]:
            print(f"  disagrees: {row}: {verdict}")
    print(f"\n{path.name}: {len(rows)} pairs, {len(rows) / took:.0f} pairs/s")
    heads = ("pairs", "agree %", "false +", "false -", "undecided")
    print(f"  {'':24}" + "".join(f"{head:>11}" for head in heads))
    for subject, counts in sorted(table.items(), key=lambda item: item[0] == "all"):
        total = sum(counts.values())
        agree = counts["equal True"] + counts["unequal False"]
        undecided = counts["equal None"] + counts["unequal None"]
        cells = (counts["unequal True"], counts["equal False"], undecided)
        print(
            f"  {subject:24}{total:11}{100 * agree / total:11.1f}"
            + "".join(f"{cell:11}" for cell in cells)
        )
    print(f"  decided by: {dict(Counter(verdict.reason for verdict in verdicts).most_common())}")


def easy_pairs(count: int) -> list[tuple[str, str]]:
    """Numbers, fractions and tuples with sentences around them, half of them right."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        a, b = (int(n) for n in rng.integers(2, 10_000, 2))
        other = a + int(rng.integers(2))
        kinds = [
            (f"{a}", f"We add them up.\n\nThe answer is \\boxed{{{other:,}}}."),
            (rf"\frac{{{a}}}{{{b}}}", rf"Hence it is $\dfrac{{{2 * other}}}{{{2 * b}}}$."),
            (f"({a},{b})", rf"So $(x,y) = \boxed{{\left({other}, {b}\right)}}$."),
            (f"{a}", f"She has {b} of them.\n#### {other}"),
            (rf"\${a}.50", f"**Answer:** {other}.5 dollars"),
        ]
        pairs.append(kinds[number % len(kinds)])
    return pairs


def tell_rate(name: str, pairs: list[tuple[str, str]], grader: Grader) -> None:
    """Pairs a second, and what decided."""
    begun = time.perf_counter()
    verdicts = list(grader.grade(pairs))
    took = time.perf_counter() - begun
    right = sum(verdict.correct is True for verdict in verdicts)
    print(f"\n{name}: {len(pairs)}, {len(pairs) / took:.0f} pairs/s, {right} right")
    print(f"  decided by: {dict(Counter(verdict.reason for verdict in verdicts).most_common())}")


def tell_hostile(roles: list[str]) -> None:
    """What became of each hostile text, and how long the slowest took."""
    found: list[tuple[float, str, str, str, Verdict]] = []
    with tempfile.TemporaryDirectory() as directory, Grader(workers=1) as grader:
        canary = Path(directory) / "canary"
        assert next(grader.grade([WARM])).correct
        for role in roles:
            for kind, texts in KINDS.items():
                for text in texts:
                    text = text.replace("CANARY", str(canary))
                    answer = f"So it is $\\boxed{{{text}}}$." if role == "boxed" else text
                    pair = (text, "x^2+1") if role == "reference" else ("x^2+1", answer)
                    begun = time.perf_counter()
                    verdict = next(grader.grade([pair]))
                    found.append((time.perf_counter() - begun, role, kind, text[:40], verdict))
                    verdict = next(grader.grade([WARM]))
                    assert verdict.correct, f"{text[:40]!r} spoiled the next verdict: {verdict}"
        files = len(list(Path(directory).iterdir()))
    print(f"\nhostile texts: {len(found)}, files made: {files}")
    for role in roles:
        print(f"  as {role}: {'slowest s':>{24 - len(role)}}  outcomes")
        for kind in KINDS:
            of_kind = [(took, v) for took, r, k, _, v in found if (r, k) == (role, kind)]
            reasons = Counter(
                f"{verdict.reason}{' (equal!)' * (verdict.correct is True)}"
                for _, verdict in of_kind
            )
            slowest = max(took for took, _ in of_kind)
            print(f"    {kind:16}{slowest:10.2f}  {dict(reasons.most_common())}")
    for took, role, kind, text, verdict in sorted(found, key=lambda one: -one[0])[:10]:
        print(f"  {took:.2f} s  {kind} as {role}: {text!r}: {verdict.reason}")


if __name__ == "__main__":
    main()
