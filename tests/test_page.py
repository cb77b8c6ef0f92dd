"""The page shows every sample as it is, runs nothing that a model wrote, and works from a disk.

A real Chromium reads it, where one is installed: through the pipe that its own tools use.
"""

import base64
import contextlib
import errno
import fcntl
import html.parser
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1jax.evaluation.page import Shown, page, write_page
from s1jax.evaluation.results import BASE, MODEL, Results, Score
from s1jax.evaluation.samples import ANSWER, CLOSING, INSERTED, START, THINKING, Sample
from s1jax.generations import Generation
from s1jax.types import UserError

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TITLE = "Samples of an evaluation"
CANARY = "document.title='executed'"
HOSTILE = {
    "script": f"<script>{CANARY}</script>",
    "end": f"</script><script>{CANARY}</script>",
    "end with space": f"</script ><svg onload={CANARY}>",
    "comment": f"<!--<script>{CANARY}",
    "image": f"<img src=x onerror={CANARY}>",
    "frame": f'<iframe srcdoc="<script>parent.{CANARY}</script>"></iframe>',
    "link": f'<a href="javascript:{CANARY}" autofocus onfocus="{CANARY}">x</a>',
    "style": "</style><style>body{display:none}</style>",
    "meta": "<meta http-equiv=refresh content='0;url=http://localhost:9'>",
    "cdata": f"]]><script>{CANARY}</script><![CDATA[",
    "json": f'"}}]}};{CANARY};//\\',
    "template": "${" + CANARY + "} {{" + CANARY + "}} `" + CANARY + "`",
    "entities": "&lt;script&gt; &amp;amp; &#60;b&#62;",
    "lines": "a\u2028b\u2029c\x85d\re\x00f\x1bg\x7fh",
    "bidi": "\u202egnp.exe\u2066 x \u2069\u200b\ufeff\u061c",
    "surrogates": "\ud800 \udfff \udc00\ud800",
    "letters": "数論 🦆 \u0627\u0644 \U000e0041 \ue000",
    "names": "__proto__ constructor toString",
    "blank": "",
}
# What of it a reader sees instead: everything else is seen as it is.
ODD = set(
    "\u2028\u2029\x85\r\x00\x1b\x7f\u202e\u2066\u2069\u200b\ufeff\u061c\U000e0041\ue000"
    "\ud800\udfff\udc00"
)


def visible(text):
    return "".join(f"⟨U+{ord(c):04X}⟩" if c in ODD else c for c in text)


def shown(
    id="q0",
    run="budget-500",
    task="aime24",
    model=MODEL,
    sample=0,
    prompt="What is 2+2?",
    thinking=(("thinking", "Two and two. "),),
    answer="\nThe answer is 4.",
    forced=None,
    closing="\n<|im_start|>answer",
    **changes,
):
    pieces = [(START, "<|im_start|>think\n"), *thinking, (CLOSING, closing), (ANSWER, answer)]
    text = "".join(piece for _, piece in pieces)
    generation = Generation(
        id=id,
        sample=sample,
        prompt=prompt,
        thinking="".join(piece for _, piece in thinking),
        answer=answer,
        text=text,
        parity="none",
        requested_thinking_tokens=500,
        requested_min_thinking_tokens=0,
        requested_answer_tokens=100,
        thinking_tokens=5,
        answer_tokens=5,
        requested_ignore_ends=0,
        ignored_ends=(),
        thinking_ended="budget" if forced else "itself",
        forced=forced,
        finish="stop",
        seed=0,
    )
    score = Score(
        **{
            "model": model,
            "task": task,
            "run": run,
            "method": "BF",
            "id": id,
            "sample": sample,
            "group": "",
            "gold": "4",
            "answer": "4",
            "correct": True,
            "reason": "same number",
            "judged": None,
            "thinking_tokens": 5,
            "answer_tokens": 5,
            "used_tokens": 6,
            "ended": "budget" if forced else "itself",
            "ignored_ends": sum(kind == INSERTED for kind, _ in thinking),
            "finish": "stop",
        }
        | changes
    )
    spans = tuple((kind, len(piece)) for kind, piece in pieces)
    return Shown(score, prompt, Sample("key", task, id, 5, 5, spans, generation))


RESULTS = Results(
    models={MODEL: "runs/s1/hf", BASE: "Qwen/Qwen2.5-32B-Instruct"},
    tasks={"aime24": 30},
    runs=[],
    methods=[],
    changes=[],
    reasons={},
    disagreements=None,
    parity=False,
    judge_decides=False,
    resamples=10_000,
    seed=42,
)


class Elements(html.parser.HTMLParser):
    """What a parser of HTML finds: all elements, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.names, self.scripts, self.inside = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.names.append((name, tuple(attributes)))
        self.inside = name == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, name):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


def data_of(text):
    return json.loads(Elements(text).scripts[0])


# --- The file ---

texts = st.one_of(st.text(), st.sampled_from(list(HOSTILE.values())), st.text("<>/&!-script\u2028"))


@settings(deadline=None)
@given(texts, texts, texts)
def test_any_text_is_data_and_nothing_else(one, other, third):
    hostile = shown(
        id=one,
        run=other,
        task=third,
        prompt=one,
        thinking=((THINKING, other), (INSERTED, third)),
        answer=one,
        group=other,
        gold=third,
        reason=one,
    )
    models = {MODEL: one, BASE: other}
    text = page(replace(RESULTS, models=models), [hostile])
    assert Elements(text).names == Elements(page(RESULTS, [shown()])).names
    data = data_of(text)
    assert data["models"] == models
    [sample] = data["samples"]
    assert (sample["id"], sample["run"], sample["task"], sample["gold"]) == (
        one,
        other,
        third,
        third,
    )
    assert data["prompts"][str(sample["prompt"])] == one
    assert "".join(piece for _, piece in sample["pieces"]) == hostile.sample.generation.text
    assert [kind for kind, _ in sample["pieces"]] == [START, THINKING, INSERTED, CLOSING, ANSWER]
    text.encode()


def test_the_parser_sees_an_element_that_is_not_escaped():
    text = page(RESULTS, [shown()])
    broken = text.replace("What is 2+2?", "</script><img src=x>")
    assert broken != text
    assert len(Elements(broken).names) == len(Elements(text).names) + 1


def test_nothing_else_is_loaded_and_no_other_script_is_allowed():
    import hashlib

    text = page(RESULTS, [shown()])
    elements = Elements(text)
    for name, attributes in elements.names:
        assert not {"src", "href", "style", "srcdoc"} & {key for key, _ in attributes}, name
        assert not any(key.startswith("on") for key, _ in attributes)
    [policy] = [dict(a)["content"] for name, a in elements.names if "Content-Security" in str(a)]
    digest = hashlib.sha256(elements.scripts[1].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy and "http" not in policy
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch("):
        assert word not in text


def test_the_same_samples_give_the_same_file(tmp_path):
    write_page(tmp_path / "one.html", RESULTS, [shown(), shown(id="q1")])
    write_page(tmp_path / "two.html", RESULTS, iter([shown(), shown(id="q1")]))
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.html", "two.html"]
    with pytest.raises(UserError, match=r"x\.html cannot be written: No such file"):
        write_page(tmp_path / "none" / "x.html", RESULTS, [])


def test_a_page_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "samples.html"
    write_page(path, RESULTS, [shown()])
    before = path.read_bytes()

    def stopped():
        yield shown(id="q1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_page(path, RESULTS, stopped())

    def full(self, text, **_):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", full)
        with pytest.raises(UserError, match=r"samples\.html cannot be written: No space left"):
            write_page(path, RESULTS, [shown(id="q1")])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_page(path, RESULTS, [shown(id="q1")])
    assert path.read_bytes() != before


def many(runs=("a", "b"), questions=40, samples=2, chars=1000, tasks=("aime24",)):
    return [
        shown(id=f"q{q}", run=run, task=task, sample=n, answer="x" * chars)
        for task in tasks
        for run in runs
        for q in range(questions)
        for n in range(samples)
    ]


@pytest.mark.parametrize("most", [15_000, 50_000, 100_000, 10**7])
def test_the_first_questions_of_each_run_are_taken(most):
    every = many(tasks=("aime24", "math500"), questions=20)
    data = data_of(page(RESULTS, every, most))
    taken = {}
    for sample in data["samples"]:
        taken.setdefault((sample["task"], sample["run"]), []).append(sample["id"])
    assert len(taken) == 4
    assert len({tuple(ids) for ids in taken.values()}) == 1
    ids = next(iter(taken.values()))
    assert ids == [f"q{n // 2}" for n in range(len(ids))]
    # As many as there is room for: one more of each run would be too many.
    size = len(json.dumps([data["samples"], data["prompts"]], separators=(",", ":")))
    assert size <= most
    one_more = size / len(ids) * 2
    assert len(ids) == 40 or size + one_more > 0.95 * most
    assert data["total"] == len(every)
    assert data["parts"][0] == [
        "aime24", MODEL, "a", f"{len(ids) // 2} of 20", f"{len(ids)} of 40",
    ]  # fmt: skip


def test_one_question_is_there_whatever_its_size():
    data = data_of(page(RESULTS, many(questions=3, chars=50_000), 1000))
    assert [sample["id"] for sample in data["samples"]] == ["q0"] * 4
    assert data_of(page(RESULTS, [], 1000))["samples"] == []


def test_what_has_no_room_is_not_kept_in_memory():
    import tracemalloc

    def stream():
        for n in range(300):
            yield shown(id=f"q{n}", answer="x" * 100_000)

    tracemalloc.start()
    text = page(RESULTS, stream(), 1_000_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 900_000 < len(text) < 1_100_000
    assert most < 8_000_000  # all of it is 30 MB


def test_spans_that_are_not_all_lose_nothing():
    whole = shown()
    cut = replace(whole, sample=replace(whole.sample, spans=whole.sample.spans[:2]))
    [sample] = data_of(page(RESULTS, [cut]))["samples"]
    assert "".join(piece for _, piece in sample["pieces"]) == whole.sample.generation.text


def test_the_page_has_the_fields_of_a_score():
    [sample] = data_of(page(RESULTS, [shown()]))["samples"]
    score = asdict(shown().score)
    assert {name: sample[name] for name in score if name != "method"} == {
        name: value for name, value in score.items() if name != "method"
    }


# --- In a browser ---

_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A headless Chromium with one page, asked through a pipe: JSON, a NUL after each message."""

    def __init__(self, profile):
        down, up = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (down[0], up[1])]
        command = [sys.executable, "-c", _LAUNCH, *map(str, theirs), CHROMIUM, "--headless"]
        command += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for fd in (*theirs, down[0], up[1]):
            os.close(fd)
        self._in, self._out = os.fdopen(down[1], "wb", 0), os.fdopen(up[0], "rb")
        self._count, self._rest = 0, b""
        self.events = []
        [target] = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    _session = None

    def __call__(self, method, **params):
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _hear(self):
        while b"\0" not in self._rest:
            some = self._out.read1(2**20)
            assert some, "the browser is gone"
            self._rest += some
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.events.clear()
        self("Page.navigate", url="about:blank")
        self("Page.navigate", url=address)
        while self.run("document.readyState") != "complete":
            pass

    def run(self, script):
        result = self("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, text=key if len(key) == 1 else "")

    def look(self, width=1400, height=1000, dark=False, phone=False):
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])

    def photograph(self, path):
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))

    def problems(self):
        """Errors of scripts, refusals of the policy, and everything asked of the network."""
        self.run("0")
        bad = ("Runtime.exceptionThrown", "Log.entryAdded")
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        others = [url for url in asked if not url.startswith(("file:", "about:"))]
        return [event for event in self.events if event["method"] in bad] + others

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._in.close()
        self._out.close()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(profile)
        try:
            yield started
        finally:
            started.close()


def opened(browser, tmp_path, samples, results=RESULTS, most=10**7, hash=""):
    path = tmp_path / "samples.html"
    write_page(path, results, samples, most)
    browser.look()
    browser.open(path.as_uri() + hash)
    return browser


def reading(browser):
    return browser.run("document.querySelector('#reading .whole').textContent")


def rows(browser):
    return browser.run("document.querySelectorAll('#rows button').length")


def test_hostile_texts_are_shown_and_not_run(browser, tmp_path):
    samples = [
        shown(
            id=text,
            run=f"{name} {text}",
            prompt=f"{name}: {text}",
            thinking=((THINKING, text), (INSERTED, text)),
            answer=text,
            group=text,
            gold=text,
            reason=text,
        )
        for name, text in HOSTILE.items()
    ]
    models = {MODEL: HOSTILE["end"], BASE: HOSTILE["image"]}
    opened(browser, tmp_path, samples, replace(RESULTS, models=models))
    assert rows(browser) == len(HOSTILE)
    for sample in samples:
        assert reading(browser) == visible(sample.sample.generation.text)
        assert browser.run("document.querySelector('.prompt').textContent") == visible(
            sample.prompt
        )
        browser.press("j")
    assert browser.run("document.title") == TITLE
    assert browser.run("document.querySelectorAll('img, iframe, svg, a').length") == 0
    assert browser.problems() == []


def test_what_is_not_escaped_is_refused_by_the_policy(browser, tmp_path):
    path = tmp_path / "broken.html"
    text = page(RESULTS, [shown()]).replace("</body>", f"{HOSTILE['script']}</body>")
    path.write_text(text)
    browser.open(path.as_uri())
    assert browser.run("document.title") == TITLE
    assert any("Content Security Policy" in str(problem) for problem in browser.problems())
    # And without the policy it runs: the canary would have been seen.
    path.write_text(text.replace("Content-Security-Policy", "nothing"))
    browser.open(path.as_uri())
    assert browser.run("document.title") == "executed"


def test_a_megabyte_is_shown_whole(browser, tmp_path):
    long = "".join(f"{n:07d}\n" for n in range(125_000))
    controls = "\x01" * 50_000
    samples = [shown(answer=long), shown(id="q1", answer=controls), shown(id="q2")]
    opened(browser, tmp_path, samples)
    assert reading(browser).endswith(long)
    browser.press("j")
    assert reading(browser).endswith("⟨U+0001⟩" * 50_000)
    browser.press("j")
    assert reading(browser).endswith("The answer is 4.")
    assert browser.problems() == []


def sweep():
    """Two questions in three runs, the second wrong in one of them, unanswered in another."""
    for run, forced in (("budget-500", "\nFinal Answer:"), ("ignore-2", None)):
        waits = ((INSERTED, "Wait"), (THINKING, ", is it? "))
        more = () if forced else waits + waits
        for n in range(2):
            yield shown(
                id=f"q{n}",
                run=run,
                prompt=f"Question {n}?",
                thinking=((THINKING, "Hm. "), *more),
                forced=forced,
                closing="\n<|im_start|>answer" + (forced or ""),
                group="even" if n == 0 else "odd",
                correct=n == 0 or run == "ignore-2",
            )
    for n in range(2):
        yield shown(
            id=f"q{n}",
            run="plain",
            model=BASE,
            prompt=f"Question {n}?",
            answer="nothing",
            correct=False,
            **{"group": "even" if n == 0 else "odd"},
        )


def choose(browser, name, text):
    browser.run(
        f"(() => {{ const s = document.getElementById({json.dumps(name)});"
        f"s.selectedIndex = [...s.options].findIndex((o) => o.text === {json.dumps(text)});"
        "s.dispatchEvent(new Event('change')); })()"
    )


def title(browser):
    return browser.run(
        "[...document.querySelectorAll('#reading > h2, article h2')]"
        ".map((e) => e.textContent).join(' | ')"
    )


def test_filters_keys_and_search(browser, tmp_path):
    opened(browser, tmp_path, sweep())
    count = "document.getElementById('count').textContent"
    assert browser.run(count) == "6 of 6 samples, 3 right (50.0%)"
    assert title(browser) == "aime24 q0 · even | ✓ right · budget-500"
    assert browser.run("document.getElementById('task').parentElement.hidden")
    for _ in range(3):
        browser.press("j")
    assert title(browser) == "aime24 q1 · odd | ✓ right · ignore-2"
    browser.press("k")
    assert title(browser) == "aime24 q0 · even | ✓ right · ignore-2"
    choose(browser, "verdict", "wrong")
    assert browser.run(count) == "3 of 6 samples, 0 right (0.0%)"
    assert title(browser) == "aime24 q1 · odd | ✗ wrong · budget-500"
    choose(browser, "model", "base")
    choose(browser, "group", "odd")
    assert browser.run(count).startswith("1 of 6")
    for name in ("verdict", "model", "group"):
        choose(browser, name, "all")
    browser.press("/")
    assert browser.run("document.activeElement.id") == "search"
    for letter in "IS IT?":
        browser.press(letter)
    browser.run("filter()")
    assert browser.run(count).startswith("2 of 6")
    browser.press("Escape")
    assert browser.run("document.activeElement.id") != "search"
    browser.run("document.getElementById('search').value = 'not there'; filter()")
    assert browser.run(count) == "0 of 6 samples, 0 right"
    assert rows(browser) == 0
    assert browser.problems() == []


def test_forced_text_is_marked_and_found(browser, tmp_path):
    opened(browser, tmp_path, sweep())
    forced = "[...document.querySelectorAll('.forced')].map((e) => e.textContent)"
    here = "[...document.querySelectorAll('.forced')].findIndex((e) => e.matches('.here'))"
    assert browser.run(forced) == ["\n<|im_start|>answer\nFinal Answer:"]
    choose(browser, "run", "ignore-2")
    assert browser.run(forced) == ["Wait", "Wait"]
    seen = []
    for key in "nnnp":
        browser.press(key)
        seen.append(browser.run(here))
    assert seen == [0, 1, 0, 1]
    choose(browser, "run", "plain")
    assert browser.run(forced) == []
    assert browser.run("document.getElementById('next').disabled")
    dim, ink = (
        browser.run(f"getComputedStyle(document.querySelector('.whole .{kind}')).color")
        for kind in ("thinking", "answer")
    )
    assert dim != ink


def test_two_runs_beside_each_other(browser, tmp_path):
    opened(browser, tmp_path, sweep())
    choose(browser, "compare", "ignore-2: right")
    assert title(browser) == "aime24 q0 · even | ✓ right · budget-500 | ✓ right · ignore-2"
    browser.press("j")
    assert title(browser) == "aime24 q1 · odd | ✗ wrong · budget-500 | ✓ right · ignore-2"
    left = "[...document.querySelectorAll('article')].map((e) => e.getBoundingClientRect().left)"
    one, other = browser.run(left)
    assert one < other
    browser.look(390, 800, phone=True)
    one, other = browser.run(left)
    assert one == other
    choose(browser, "compare", "nothing")
    assert title(browser) == "aime24 q1 · odd | ✗ wrong · budget-500"


def test_an_address_names_a_sample(browser, tmp_path):
    opened(browser, tmp_path, sweep())
    browser.press("j")
    browser.press("j")
    address = browser.run("location.href")
    before = title(browser)
    opened(browser, tmp_path, sweep(), hash="#" + address.partition("#")[2])
    assert title(browser) == before == "aime24 q0 · even | ✓ right · ignore-2"
    opened(browser, tmp_path, sweep(), hash="#%5B%22nonsense")
    assert title(browser) == "aime24 q0 · even | ✓ right · budget-500"


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_nothing_is_wider_than_the_window(browser, tmp_path, width):
    samples = [*sweep(), shown(id="x" * 500, prompt="y" * 3000, answer="z" * 9000, gold="g" * 900)]
    opened(browser, tmp_path, samples)
    browser.look(width, 800, phone=width < 500)
    for view in ("list", "sample"):
        assert browser.run("document.documentElement.scrollWidth") <= width, view
        choose(browser, "compare", "ignore-2: right")
        browser.run("open(samples[samples.length - 1], true)")
        assert browser.run(
            "['reading', 'list'].every((id) => document.getElementById(id).scrollWidth"
            " <= document.getElementById(id).clientWidth)"
        )


def test_a_long_list_comes_in_pieces(browser, tmp_path):
    samples = [shown(id=f"q{n}") for n in range(1000)]
    opened(browser, tmp_path, samples)
    assert rows(browser) == 200
    browser.run("document.getElementById('more').click()")
    assert rows(browser) == 400
    browser.run("open(samples[899], true)")
    assert rows(browser) >= 900
    assert browser.run("document.querySelector('[aria-current]').textContent").count("q899")


def test_the_page_says_what_is_left_out(browser, tmp_path):
    opened(browser, tmp_path, many(), most=50_000)
    text = browser.run("document.getElementById('left-out').innerText")
    data = data_of((tmp_path / "samples.html").read_text())
    assert f"{len(data['samples'])} of 160 samples are on this page" in text
    cells = browser.run("document.querySelector('#left-out tr:nth-child(2)').textContent")
    assert cells == "".join(data["parts"][0])
    opened(browser, tmp_path, many())
    assert browser.run("document.getElementById('left-out').hidden")
    opened(browser, tmp_path, [])
    assert "no samples" in browser.run("document.getElementById('reading').textContent")


def contrast(browser, selector):
    """Of a text against what is behind it, as WCAG counts it."""
    return browser.run(
        "(() => { const e = document.querySelector(" + json.dumps(selector) + ");"
        "const rgb = (c) => c.match(/[0-9.]+/g).map(Number);"
        "let at = e; while (at && rgb(getComputedStyle(at).backgroundColor)[3] === 0)"
        " at = at.parentElement;"
        "const light = (c) => { const [r, g, b] = rgb(c).slice(0, 3).map((x) => x / 255)"
        ".map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);"
        "return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        "const [a, b] = [light(getComputedStyle(e).color),"
        " light(getComputedStyle(at || document.body).backgroundColor)].sort((x, y) => y - x);"
        "return (a + 0.05) / (b + 0.05); })()"
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(browser, tmp_path, dark):
    opened(browser, tmp_path, [*sweep(), shown(id="q2", answer="\u202e", correct=False)])
    browser.look(dark=dark)
    seen = {}
    for at, selectors in {
        0: (".whole .thinking", ".whole .answer", ".forced", "#count", "article .key", "dt"),
        1: ("article h2.wrong", "#rows .what", "[aria-current] .what", "footer", "label"),
        6: (".odd", ".prompt", "#models"),
    }.items():
        browser.run(f"open(samples[{at}], true)")
        seen |= {selector: contrast(browser, selector) for selector in selectors}
    assert min(seen.values()) >= 4.5, seen
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(23, 23, 26)") == dark


def test_chromium_by_its_command_line(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "samples.html"
    write_page(path, RESULTS, [shown(answer=HOSTILE["end"] + HOSTILE["image"])])
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert f"<title>{TITLE}</title>" in done.stdout
    rendered = done.stdout.partition('id="reading"')[2].partition("</section>")[0]
    assert "&lt;/script&gt;&lt;script&gt;document.title='executed'" in rendered
    assert "&lt;img src=x onerror=" in rendered
