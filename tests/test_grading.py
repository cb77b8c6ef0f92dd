"""Equal answers are equal in any dress, others are not, and no answer can harm the run."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1jax.evaluation import grading
from s1jax.evaluation.equality import by_rules, formula
from s1jax.evaluation.grading import Grader, Verdict
from s1jax.types import UserError

ALIKE = [
    ("23", "023"),
    ("23", "23.0"),
    ("1234", r"1,\!234"),
    ("1,234", "1234"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "0.5"),
    ("0.333333", "1/3"),
    ("-3", "\u22123"),
    ("(3,4]", r"$\left( 3, 4 \right]$"),
    (r"\text{Evelyn}", "evelyn"),
    (r"3\sqrt{2}", r"3 \sqrt 2."),
    ("10^{-24}", r"1 \times 10^{-24}"),
    ("7.27  $10^6 \\mathrm{~m} \\mathrm{~s}^{-1}$", r"7.27 \times 10^6 \text{ m/s}"),
    ("0.139 $\\mathrm{nm}$", "0.139"),
    ("76 $\\text { days }$", "76"),
    (r"50\%", "0.5"),
    (r"50\%", "50"),
    ("B", r"\text{(B)}"),
    ("(c)", "C"),
    ("D", "Option D"),
    ("B", "B. 42"),
    ("True", "Yes, it is"),
    ("1, 2", "(1, 2)"),
    ("5", "x=5"),
    ("5", "x + 2 = 3 + 2 = 5"),
    (r"\lambda", r"$\lambda$"),
    ("x=5", "5"),
    ("1,2", r"\{2, 1\}"),
    ("1,2", "2 and 1"),
    (r"1 \pm \sqrt{2}, 3", r"3, 1+\sqrt{2}, 1-\sqrt{2}"),
    ("(3,4]", r"3 < x \le 4"),
    (r"(-\infty,3)", "x<3"),
    (r"(-\infty,-1)\cup(4,\infty)", r"x<-1 \text{ or } x>4"),
    (r"x \in [-3,8]", r"\{x \mid -3 \leq x \leq 8\}"),
    ("all real numbers", r"(-\infty, \infty)"),
    (r"\begin{pmatrix} 7 \\ -1 \end{pmatrix}", r"\langle 7, -1 \rangle"),
    (r"\begin{pmatrix} 1/4 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 0.25 \\ 2 \end{bmatrix}"),
    ("8 cm", r"80\text{ mm}"),
    (r"\$18.90", "1890 cents"),
    ("24 hours", "1 day"),
    ("1000", "1 thousand"),
    (r"864 \mbox{ inches}^2", r"6 \text{ square feet}"),
    (r"66\frac{2}{3}\%", r"\frac{2}{3}"),
    (r"0.2\overline{7}", r"\frac{5}{18}"),
    ("63", "sixty-three"),
    ("205", "two hundred and five apples"),
    ("120000", "one hundred and twenty thousand"),
    ("five nine", "five nine"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    (r"52_{\text{eight}}", "52_8"),
    (r"4 \pmod{7}", r"x \equiv 11 \pmod 7"),
    ("9:05", "9:05 a.m."),
    ("4:9", r"4 \text{ to } 9"),
    (r"\text{Ann and Bo}", "Bo and Ann"),
]
UNLIKE = [
    ("23", "24"),
    ("one two six", "two one six"),
    ("eight five", "eight six"),
    ("23", "-23"),
    ("0.333", "1/3"),
    ("1e-24", "2e-24"),
    ("5 m", "5 km"),
    ("1.42", "1.4167"),
    ("B", "D. 42"),
    ("True", "no"),
    ("False", "True"),
    ("(3,4]", "[3,4]"),
    ("(3,4]", r"3 < x < 4"),
    ("(3,5)", r"\{3,5\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "(1,2,3)"),
    ("1,2", "1,2,3"),
    ("1,2", "1,2,2"),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
    ),
    ("8 cm", "8 mm"),
    (r"\$7.20", "7.2 cents"),
    (r"864 \mbox{ inches}^2", r"864 \text{ feet}^2"),
    (r"6\pi\text{ cm}", r"6\pi\text{ seconds}"),
    ("52_8", "52_9"),
    ("42", "52_8"),
    (r"4 \pmod{7}", "11"),
    ("9:05 a.m.", "9:05 PM"),
    (r"\text{listen}", "silent"),
    (r"7\text{ remainder }3", r"3\text{ remainder }7"),
    (r"\text{Ann}", "Ann and Bo"),
]
OPEN = [  # for math-verify, and what it says
    ("13", "eight five", False),  # two numerals, not one
    ("8", "eight five", False),
    ("x^2+2x+1", "(x+1)^2", True),
    (r"3\sqrt{2}", r"\sqrt{18}", True),
    (r"2 \pm \sqrt{3}", r"2+\sqrt3, 2-\sqrt3", True),
    (r"\lambda+1", r"1+\lambda", True),
    (r"\sin^2 x", r"1-\cos^2 x", True),
    (r"150^\circ", r"\frac{5}{6}\pi", True),
    (r"(2, 60^\circ)", r"\left(2, \frac{\pi}{6}\right)", False),
    (r"6\pi\text{ cm}", r"60\pi\text{ mm}", True),
    (r"6\pi\text{ cm}", r"6\pi\text{ km}", False),
    ("3+4i", "4i+3", True),
    (r"2e^{i\pi/3}", r"1+i\sqrt{3}", True),
    ("5i", "-5i", False),
    (r"10^{-20}\pi", r"2\cdot10^{-20}\pi", False),
    ("2x", "2y", False),
    ("2x", "2", False),
    (r"3\pi", "3", False),
    ("5", "n = 3 or n = 4", False),
]
HOSTILE = [
    "9^{9^{9^{9}}}",
    "(" * 900 + "1" + ")" * 900,
    "((x+1)^{100})^{100}",
    "9" * 1900,
    r"\frac{0}{0}",
    r"\begin{cases}" * 100,
    "{" * 3000,
    "\x00\ud800",
    "__import__('os').system('touch CANARY')",
    r"\text{__import__('os').system('touch CANARY')}",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "open('CANARY', 'w')",
    "lambda: 0",
    r"\operatorname{system}('touch CANARY')",
    "os.system('touch CANARY')",
    "getattr(os, 'sys' + 'tem')('touch CANARY')",
]


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


def boxed(text):
    return f"So it is $\\boxed{{{text}}}$."


@pytest.mark.parametrize(("reference", "answer"), ALIKE)
def test_rules_see_through_the_dress(reference, answer):
    assert by_rules(reference, answer)[0] is True


@pytest.mark.parametrize(("reference", "answer"), UNLIKE)
def test_rules_see_what_differs(reference, answer):
    assert by_rules(reference, answer)[0] is False


@pytest.mark.parametrize(("reference", "answer", "correct"), OPEN)
def test_rules_leave_formulas_to_math_verify(grader, reference, answer, correct):
    assert by_rules(reference, answer) is None
    assert list(grader.grade([(reference, boxed(answer))])) == [Verdict(correct, "math-verify")]


WHOLE = st.integers(-(10**12), 10**12)


@given(WHOLE, WHOLE)
def test_whole_numbers_are_compared_as_python_does(a, b):
    for dressed in (f"{b}", f"${b}$", f"{b}.0", f"{b:,}", f"\\text{{{b}}}"):
        assert by_rules(str(a), dressed)[0] is (a == b)
        assert by_rules(str(b), dressed)[0] is True
    assert by_rules(str(b), f"x = {b}.")[0] is True


@given(st.integers(1, 999), st.integers(1, 999), st.integers(-9, 9))
def test_decimals_stand_for_what_rounds_to_them(top, bottom, power):
    exact = top / bottom * 10.0**power
    fraction = f"{exact:.15e}"
    assert by_rules(f"{exact:.2e}", fraction, digits=3)[0] is True
    assert by_rules(f"{exact:.5e}", fraction)[0] is True
    assert by_rules(f"{exact * 1.01:.3e}", fraction, digits=3)[0] is False


def test_rounding_is_asked_for():
    pair = ("1.42", boxed("1.4167"))
    with Grader(rounded=True) as rounding, Grader() as exact:
        assert [v.correct for v in rounding.grade([pair, ("2.5", boxed("2.54"))])] == [True, False]
        assert next(exact.grade([pair])).correct is False


def test_verdicts_come_in_order_and_lazily(grader):
    pairs = [(str(i), boxed(f"{i % 3}+x-x")) for i in range(6)]
    assert [v.correct for v in grader.grade(pairs)] == [True, True, True, False, False, False]
    endless = ((str(i), "1") for i in iter(int, 1))
    assert next(grader.grade(endless)) == Verdict(False, "other number")
    assert list(grader.grade([("1", "I do not know what to say here."), (" ", "1")])) == [
        Verdict(False, "no answer"),
        Verdict(None, "no reference"),
    ]


def test_hostile_answers_lose_nothing_but_themselves(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    monkeypatch.chdir(tmp_path)
    hostile = [boxed(text.replace("CANARY", str(canary))) for text in HOSTILE]
    good = [("x^2+2x+1", boxed("(x+1)^2")), ("x^2+2x+1", boxed("(x+2)^2"))]
    pairs = [pair for text in hostile for pair in (("x^2+1", text), *good)]
    took = []
    hear = grading._hear

    def timed(process, seconds):
        begun = time.monotonic()
        said = hear(process, seconds)
        if seconds == 1.5:  # not the start of a worker
            took.append(time.monotonic() - begun)
        return said

    monkeypatch.setattr(grading, "_hear", timed)
    with Grader(timeout_s=1.5) as grader:
        verdicts = list(grader.grade(pairs))
    assert all(v.correct is not True for v in verdicts[::3])
    assert any(v == Verdict(None, "timeout") for v in verdicts[::3])
    assert [v.correct for v in verdicts[1::3]] == [True] * len(hostile)
    assert [v.correct for v in verdicts[2::3]] == [False] * len(hostile)
    assert list(tmp_path.iterdir()) == []
    assert 1.3 < max(took) < 1.7


def test_memory_is_bounded():
    with Grader(timeout_s=20, memory_bytes=80 << 20, workers=1) as grader:
        verdicts = list(grader.grade([("1", "\\boxed{2^{10^{12}}}"), ("1", "\\boxed{3-2}")]))
    assert verdicts == [Verdict(None, "memory"), Verdict(True, "math-verify")]


def test_a_dead_worker_is_replaced():
    formula = ("2x", boxed("x+x"))
    with Grader(workers=1) as grader:
        assert next(grader.grade([formula])).correct
        worker = grader._workers[0]
        worker.kill()
        assert next(grader.grade([formula])) == Verdict(None, "crashed")
        assert next(grader.grade([formula])).correct
        process = worker._process
    assert process.poll() is not None
    assert not Path(grader._directory.name).exists()


def test_workers_have_no_secrets(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "canary-3141")
    with Grader(workers=1) as grader:
        assert next(grader.grade([("2x", boxed("x+x"))])).correct
        process = grader._workers[0]._process
        seen = Path(f"/proc/{process.pid}/environ")
        if not seen.exists():
            pytest.skip("no /proc here")
        assert b"canary" not in seen.read_bytes()
        assert Path(f"/proc/{process.pid}/cwd").readlink() == Path(grader._directory.name)
    assert b"canary" in subprocess.run(["env"], capture_output=True, check=True).stdout


EVIL = """
import os, runpy, sys
verifier = runpy.run_path(sys.argv[1])
def equal(pairs):
    {code}
    return True
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "confined":
        verifier["_judge"](equal, [], 2.0, 2**30)
    os._exit(10 if equal([]) else 11)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    "code",
    [
        "open('canary', 'w').close()",
        "os.system('touch canary')",
        "os.mkdir('canary')",
        "__import__('subprocess').run(['touch', 'canary'])",
        "os.close(os.open('canary', os.O_CREAT | os.O_WRONLY))",
        "__import__('socket').socket().close()",
        "eval('1 + 1')",
        "__import__('sympy').sympify('x + 1')",
    ],
)
def test_code_that_ran_after_all_could_do_nothing(tmp_path, code):
    def status(how):
        command = [sys.executable, "-c", EVIL.format(code=code), str(grading.VERIFIER), how]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert status("confined") == 13  # forbidden
    assert list(tmp_path.iterdir()) == []
    assert status("free") == 10
    assert ("canary" in code) == (tmp_path / "canary").exists()


def test_without_math_verify_it_is_one_sentence(tmp_path, monkeypatch):
    broken = tmp_path / "verifier.py"
    broken.write_text("raise ModuleNotFoundError(\"No module named 'math_verify'\")\n")
    monkeypatch.setattr(grading, "VERIFIER", broken)
    with Grader() as grader:
        assert next(grader.grade([("1", "1")])).correct  # the rules need no worker
        with pytest.raises(UserError, match=r"math-verify does not load .*No module named"):
            list(grader.grade([("2x", boxed("x+x"))]))


def test_real_answers(grader, shared):
    rows = [json.loads(line) for line in (shared / "data/math500.jsonl").open()]
    answers = [row["answer"] for row in rows]
    verdicts = grader.grade([(answer, boxed(answer)) for answer in answers])
    assert all(v.correct for v in verdicts)
    # The answers of other questions, every tenth: the rest is as slow as it is alike.
    pairs = list(zip(answers[::10], (answers[7:] + answers[:7])[::10], strict=True))
    for (reference, other), verdict in zip(
        pairs, grader.grade([(a, boxed(b)) for a, b in pairs]), strict=True
    ):
        assert verdict.correct is (reference == other), (reference, other)
    formulas = [formula(answer) for answer in answers if not by_rules("1", answer)][:60]
    assert [grader._verify([(text, text)]).correct for text in formulas] == [True] * 60
    rows = [json.loads(line) for line in (shared / "data/gsm8k_test.jsonl").open()]
    golds = [row["answer"].split("#### ")[1] for row in rows]
    assert all(
        v.correct
        for v in grader.grade([(g, r["answer"]) for g, r in zip(golds, rows, strict=True)])
    )
    shifted = [(g, row["answer"]) for g, row in zip(golds[1:] + golds[:1], rows, strict=True)]
    right = [g.replace(",", "") == a.split("#### ")[1].replace(",", "") for g, a in shifted]
    assert [v.correct for v in grader.grade(shifted)] == right
    assert sum(right) < 20


def test_the_version_is_of_all_modules_that_decide(tmp_path, monkeypatch):
    """What they import of this room is in it, so that a change of it makes verdicts anew."""
    here = Path(grading.__file__).parent
    for name in here.glob("*.py"):
        shutil.copy(name, tmp_path)
    monkeypatch.setattr(grading, "__file__", str(tmp_path / "grading.py"))
    before = grading.version()
    looked_at = set()
    for path in sorted(tmp_path.glob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n# changed\n")
        if grading.version() != before:
            looked_at.add(path.stem)
        path.write_text(text)
    imported = re.findall(r"s1jax\.evaluation\.(\w+)", (here / "marking.py").read_text())
    assert set(imported) - {"tasks"} < looked_at >= {"marking", "verifier", "equality"}
