"""Pictures show what was counted and are legible; tables and card hold any text that data has."""

import itertools
import json
import re
import statistics
import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from s1jax.curation_config import Curate, Pool
from s1jax.data.data_card import COLUMNS, Card, data_card
from s1jax.data.funnel import Candidate, Pick, Stage
from s1jax.data.report import (
    cell,
    domain_table,
    draw_domains,
    draw_funnel,
    draw_lengths,
    one_line,
    plot_domains,
    plot_funnel,
    plot_lengths,
    source_table,
    stage_table,
)
from s1jax.data.rows import s1_row
from s1jax.data.subjects import SUBJECTS
from s1jax.types import Question, Trace, UserError

HOSTILE = (
    "$K$-theory",
    "$\\frac{",
    "a|b\\|c",
    "two\nlines\r\n---",
    "<img src=x onerror=alert(1)>",
    "[click](http://x) `code` **bold** ~~gone~~",
    "\x00\ud800\u202eevil\u2028",
    "数論 🦆",
    "x" * 5000,
    "",
)


def funnel_of(rows, *reasons):
    names = (f"stage {n}" for n in range(len(reasons)))
    funnel = []
    for name, why in zip(names, reasons, strict=True):
        left = rows - sum(why.values())
        funnel.append(Stage(name, rows, left, why))
        rows = left
    return funnel


S1 = funnel_of(
    59_029,
    {},
    {"no reference": 4_870, "no trace: error": 43},
    {"drawing": 1_200, "bold with a digit": 900, "page": 309, "picture": 100},
    {"solved by the second model": 20_000, "solved by the first model": 7_090},
    {"not drawn": 23_517},
)
SMALL = funnel_of(2_400, {"missing question": 1}, {}, {"8 words of math500": 699}, {"near": 1_300})
LONG = funnel_of(9_999_999, {f"{n} {'many words_of/a Reason ' * 9}": 10**6 - n for n in range(5)})
LONG = [replace(stage, name="decontamination") for stage in LONG]

numbers = itertools.count()


def pick(domain, tokens=100, source="aime", teacher="mini", version="1", summary=False):
    question = Question(f"Question {next(numbers)}?", source_type=source)
    trace = Trace(question.id, teacher, 0, "so", "4", "stop", is_summary=summary, version=version)
    return Pick(Candidate(question, trace, domain, tokens, None), "uniform", "draw 1")


# --- Pictures ---


def size_of(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def shown(figure):
    """Every text of a figure that is not empty, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    FigureCanvasAgg(figure).draw()
    beyond = set()  # ticks outside of the axes are there, but are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        least, most = sorted(axis.get_view_interval())
        beyond |= {t.label1 for t in axis.get_major_ticks() if not least <= t.get_loc() <= most}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    texts = [text for text in texts if text not in beyond]
    return [(text.get_text(), text.get_window_extent()) for text in texts]


def collisions(figure):
    """The pairs of texts that touch, and the texts that leave the picture."""
    boxes = shown(figure)
    inside = figure.bbox
    outside = [
        text
        for text, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > inside.x1 or box.y1 > inside.y1
    ]
    pairs = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]
    return outside + pairs


@pytest.mark.parametrize("funnel", [S1, SMALL, LONG], ids=["s1", "small", "long"])
def test_the_funnel_is_legible(funnel):
    assert collisions(draw_funnel(funnel)) == []


def test_collisions_are_found():
    figure = draw_funnel(S1)
    [axes] = figure.axes
    axes.text(0.3, 0.4, "on the title")
    axes.text(11.9, 3, "out of the picture")
    found = collisions(figure)
    assert ("out of the picture" in found) and any("on the title" in pair for pair in found)


@pytest.mark.parametrize("funnel", [S1, SMALL], ids=["s1", "small"])
def test_the_funnel_shows_its_counts(funnel):
    [axes] = draw_funnel(funnel).axes
    bars = [patch.get_width() for patch in axes.patches]
    whole, gone = bars[0::2], bars[1::2]
    total = funnel[0].before
    np.testing.assert_allclose(
        np.array(whole) / whole[0], [1, *(stage.after / total for stage in funnel)]
    )
    np.testing.assert_allclose(
        np.array(gone) / whole[0], [0, *((s.before - s.after) / total for s in funnel)], atol=1e-12
    )
    texts = [text.get_text() for text in axes.texts]
    for stage in funnel:
        assert {stage.name, f"{stage.after:,}", f"{stage.after / total:.1%}"} <= set(texts)
    assert texts[0] == f"{total:,} questions, {funnel[-1].after:,} left"


def test_the_funnel_gives_the_commonest_reasons_and_counts_the_rest():
    texts = [text.get_text() for text in draw_funnel(S1).axes[0].texts]
    minus = "\N{MINUS SIGN}"
    for count, why in (
        ("1,200", "drawing"),
        ("900", "bold with a digit"),
        ("43", "no trace: error"),
    ):
        assert texts[texts.index(why) - 1] == minus + count
    assert texts[texts.index("2 other reasons") - 1] == f"{minus}409"
    assert "page" not in texts


def test_domains_are_sorted_and_their_dots_are_shares():
    candidates = {"Geometry": 50, "Sets": 30, "Number theory": 20, "Empty": 0}
    picked = {"Number theory": 6, "Geometry": 2, "Unheard of": 2}
    [axes] = draw_domains(candidates, picked).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Number theory", "Geometry", "Unheard of", "Sets"]
    theirs, mine = (c.get_offsets()[:, 0] for c in axes.collections if len(c.get_offsets()) == 4)
    np.testing.assert_allclose(theirs, [0.2, 0.5, 0, 0.3])
    np.testing.assert_allclose(mine, [0.6, 0.2, 0.2, 0])
    assert [t.get_text() for t in axes.texts] == ["6 of 20", "2 of 50", "2 of 0", "0 of 30"]
    top = axes.transData.transform([(0, 0), (0, 3)])[:, 1]
    assert top[0] > top[1]


def test_sixty_one_domains_are_legible():
    titles = [subject.title for subject in SUBJECTS]
    figure = draw_domains(
        {title: 1000 + 7 * n for n, title in enumerate(titles)}, dict.fromkeys(titles, 16)
    )
    assert collisions(figure) == []
    assert {text for text, _ in shown(figure)} >= set(titles)
    squeezed = draw_domains(dict.fromkeys(titles, 1), dict.fromkeys(titles, 1))
    squeezed.set_size_inches(10, 4)
    assert collisions(squeezed)


def heights(patch):
    """What a histogram's outline is up to, bin by bin; it goes up, along and on."""
    outline = patch.get_xy()
    bins = len(set(outline[:, 0])) - 1
    return outline[1 : 2 * bins : 2, 1]


@pytest.mark.parametrize(
    ("most", "scale"), [(60, "linear"), (1_190, "linear"), (1_210, "log"), (400_000, "log")]
)
def test_lengths_are_shares_with_medians(most, scale):
    rng = np.random.default_rng(0)
    candidates = [40, most, *rng.integers(40, most, 500, endpoint=True).tolist()]
    picked = sorted(candidates)[-100:]
    figure = draw_lengths(candidates, picked)
    [axes] = figure.axes
    assert axes.get_xscale() == scale
    medians = [line.get_xdata()[0] for line in axes.lines]
    assert medians == [statistics.median(candidates), statistics.median(picked)]
    theirs, mine = (heights(patch) for patch in axes.patches)
    edges = sorted(set(axes.patches[0].get_xy()[:, 0]))
    np.testing.assert_allclose(theirs, np.histogram(candidates, edges)[0] / 502)
    np.testing.assert_allclose(mine, np.histogram(picked, edges)[0] / 100)
    np.testing.assert_allclose([mine.sum(), theirs.sum()], 1)
    # Whole tokens to a bin: 21 lengths make 11 bins of two, not 20 of one or two.
    assert len(mine) == (11 if most == 60 else 20)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [
        f"502 candidates, median {statistics.median(candidates):,.0f}",
        f"100 selected, median {statistics.median(picked):,.0f}",
    ]
    assert collisions(figure) == []


PLOTS = {
    "funnel": (plot_funnel, (S1,), (SMALL,)),
    "domains": (plot_domains, ({"A": 3, "B": 2}, {"A": 1}), ({"A": 3, "B": 2}, {"B": 1})),
    "lengths": (plot_lengths, ([1, 5, 9000], [9000]), ([1, 5, 9000], [5])),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_picture_is_written_whole(tmp_path, name):
    plot, content, other = PLOTS[name]
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, arguments in zip(paths, (content, content, other), strict=True):
        plot(*arguments, path)
    width, height = size_of(paths[0])
    assert 1000 <= width <= 2000
    assert 200 <= height <= 2000
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    with pytest.raises(UserError, match=r"x\.png cannot be written: No such file"):
        plot(*content, tmp_path / "none" / "x.png")


def test_nothing_is_drawn_as_well(tmp_path):
    plot_funnel([], tmp_path / "funnel.png")
    plot_funnel(funnel_of(0, {}, {}), tmp_path / "zero.png")
    plot_domains({}, {}, tmp_path / "domains.png")
    plot_domains({"A": 3}, {}, tmp_path / "none.png")
    for lengths in (([], []), ([0], [0]), ([5], []), ([0, 10**6], [0])):
        plot_lengths(*lengths, tmp_path / "lengths.png")
        assert size_of(tmp_path / "lengths.png") == (1200, 675)


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_funnel(funnel_of(100, *({name: 1} for name in HOSTILE)), tmp_path / "funnel.png")
        named = [Stage(name, 10, 9, {"why": 1}) for name in HOSTILE]
        plot_funnel(named, tmp_path / "names.png")
        plot_domains(dict.fromkeys(HOSTILE, 3), dict.fromkeys(HOSTILE, 1), tmp_path / "domains.png")
    texts = {text for text, _ in shown(draw_domains({"$K$-theory": 1, "$\\frac{": 1}, {}))}
    assert {"$K$-theory", "$\\frac{"} <= texts
    narrow, wide = (
        next(box.width for text, box in shown(draw_domains({name: 1}, {})) if text == name)
        for name in ("KK-theory", "$K$-theory")
    )
    assert wide > narrow  # the dollars are there
    control = Figure()
    control.text(0.5, 0.5, "$\\frac{$")
    with pytest.raises(ValueError, match="frac"):
        control.savefig(tmp_path / "control.png")


# --- Tables ---


def cells(line):
    """The cells of a row, as the hub's Markdown has them: divided by pipes without a backslash."""
    assert line.startswith("| ") and line.endswith(" |")
    return [part.strip() for part in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_domain_table_against_counts_by_hand():
    picks = [
        *(pick("Geometry", 1000, "aime") for _ in range(3)),
        *(pick("Number theory", 10, source) for source in "dbbaccc"),
        *(pick("Algebra", 5, "", version="") for _ in range(3)),
    ]
    assert domain_table(picks) == (
        "| domain | questions | tokens of thinking | commonest sources |\n"
        "| --- | ---: | ---: | --- |\n"
        "| Number theory | 7 | 70 | c (3), b (2), a (1), 1 more |\n"
        "| Algebra | 3 | 15 | not given (3) |\n"
        "| Geometry | 3 | 3,000 | aime (3) |\n"
        "| all | 13 | 3,085 |  |\n"
    )
    assert domain_table(picks[::-1]) == domain_table(picks)
    assert domain_table([]).endswith("| all | 0 | 0 |  |\n")


def test_source_table_against_counts_by_hand():
    table = source_table(
        {"MATH": 12_000, "none": 5, "aime": 900},
        {"MATH": 11_999, "aime": 890},
        {"aime": 305, "MATH": 74},
        {"MATH": [1, 2], "aime": [4, 5, 6]},
    )
    assert table == (
        "| source | in the pool | after cleaning | selected | mean tokens of thinking |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| MATH | 12,000 | 11,999 | 74 | 2 |\n"
        "| none | 5 | 0 | 0 |  |\n"
        "| aime | 900 | 890 | 305 | 5 |\n"
        "| all | 12,905 | 12,889 | 379 | 4 |\n"
    )
    assert source_table({}, {}, {}, {}).endswith("| all | 0 | 0 | 0 |  |\n")


def test_stage_table_has_every_reason():
    lines = stage_table(S1).splitlines()
    assert lines[4] == (
        "| stage 2 | 54,116 | 51,607 |"
        " drawing (1,200); bold with a digit (900); page (309); picture (100) |"
    )
    assert len(lines) == 2 + len(S1)


texts = st.one_of(st.text(), st.text("|\\`$<>[]*~ \n\r_&#a"), st.sampled_from(HOSTILE))


@given(texts)
def test_any_text_stays_in_its_cell_and_is_shown_as_it_is(text):
    line = stage_table([Stage(text, 2, 1, {text: 1})]).splitlines()
    assert len(line) == 3
    escaped = cell(text)
    assert cells(line[2]) == [escaped, "2", "1", f"{escaped} (1)".strip()]
    # Nothing of Markdown is left but behind a backslash, and without those it is the text.
    assert not set(re.sub(r"\\.", "", escaped)) & set("\\`*[]<>|$~\n\r")
    assert re.sub(r"\\(.)", r"\1", escaped) == one_line(text)
    assert len(one_line(text)) <= 200
    assert one_line(one_line(text)) == one_line(text)


def test_the_reader_of_cells_sees_a_pipe_that_is_not_escaped():
    assert len(cells("| a|b | 1 |")) == 3
    assert len(cells("| a\\|b | 1 |")) == 2


# --- The card ---


def card_of(picks=(), **changes):
    return Card(
        **{
            "name": "s1K of mine",
            "command": "python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini",
            "seed": 42,
            "config_digest": "0123abcd",
            "pool": Pool(sources=("MATH", "mine.jsonl")),
            "curate": Curate(),
            "funnel": SMALL,
            "picks": list(picks),
            "sources": {"MATH": 2_000, "mine": 400},
            "kept": {"MATH": 300, "mine": 100},
            "selected": {"MATH": 3},
            "tokens": {"MATH": [1, 2, 3]},
            "licences": {"MATH": "MIT"},
            "evaluation_sets": {"math500": 500, "aime24": 30},
        }
        | changes
    )


PICKS = [pick("Geometry"), pick("Geometry", summary=True, version=""), pick("Sets", 1_000)]


def front_matter(text):
    _, header, _ = text.split("---\n", 2)
    return yaml.safe_load(header)


@pytest.mark.parametrize(
    ("count", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (9_999, "1K<n<10K"), (59_029, "10K<n<100K")],
)
def test_the_hub_reads_the_front_matter(count, category):
    from huggingface_hub import DatasetCard

    text = data_card(card_of([PICKS[0]] * count))
    read = DatasetCard(text).data.to_dict()
    assert read == front_matter(text)
    assert read["size_categories"] == [category]
    assert (read["license"], read["language"]) == ("other", ["en"])
    assert read["task_categories"] == ["text-generation"]
    assert "s1" in read["tags"]


def test_datasets_loads_the_directory_of_a_card(tmp_path):
    import datasets

    (tmp_path / "README.md").write_text(data_card(card_of(PICKS)))
    for name, rows in {"curated": 2, "traces": 5}.items():
        lines = [json.dumps({"question": f"{name} {n}?"}) + "\n" for n in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))

    def loaded(cache):
        found = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / cache))
        return {split: rows["question"][:] for split, rows in found.items()}

    curated = {"train": ["curated 0?", "curated 1?"]}
    assert loaded("with") == curated
    (tmp_path / "README.md").write_text("# Without a front matter\n")
    assert loaded("without") != curated


def test_the_card_says_how_the_set_was_made():
    text = data_card(card_of(PICKS, correct=1, wrong=2))
    for part in (
        "3 questions of 2 domains with a teacher's thinking (1,200 tokens)",
        "    python -m s1jax.curate --config=configs/mini.py --workdir=runs/mini\n",
        "- **Seed**: 42\n",
        "- **Config**: sha256 0123abcd\n",
        "- **Teacher**: mini, version 1 (2); mini, version unknown (1)\n",
        "- **Thinking**: 1 of 3 are the teacher's own summary",
        "- **Selected**: uniform (3)\n",
        "1 of 3 (33.3%) answers",
        "Against math500 (500 questions), aime24 (30 questions). A question is dropped",
        "punctuation and LaTeX",
        "| MATH | MIT |\n| mine | not known here: ask its owner |",
        "](funnel.png)",
        "](domains.png)",
        "](lengths.png)",
        "The order of the sources matters",
        "looks at words alone",
        "A summary leaves out",
        stage_table(SMALL),
        domain_table(PICKS),
    ):
        assert part in text
    assert "\n\n\n" not in text


CHANGES = {
    "plain thinking": ({"picks": PICKS[:1]}, "as the teacher wrote it", "A summary leaves out"),
    "nobody graded": (
        {"correct": 0, "wrong": 0},
        "not known: no answer could be compared",
        "answers that could be graded",
    ),
    "no sets": ({"evaluation_sets": {}}, "compared with no evaluation set", "Against"),
    "no rule": ({"pool": Pool(decontaminate="none")}, "compared with no evaluation set", "Against"),
    "s1's rule": ({"pool": Pool(decontaminate="s1")}, "One of less words", "LaTeX are aside"),
    "exact": ({"pool": Pool(near_duplicates=2)}, "of the same text the first is kept", "Jaccard"),
    "any order": ({"pool": Pool(earlier_sources=False)}, "is found by no rule", "The order of"),
    "given": ({"curate": Curate(domains="given")}, "named by the source", "looks at words alone"),
    "random": ({"curate": Curate(selection="random")}, "an ablation of s1: all", "Hard is here"),
    "paper": ({"curate": Curate(mode="paper")}, "by algorithm 1", "notebook"),
    "steps": ({"curate": Curate(control="steps")}, "in steps (s1's", "in tokens (s1's"),
    "no pictures": ({"pictures": ()}, "## Domains\n\n| domain", "!["),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_card_follows_the_config(name):
    changes, there, not_there = CHANGES[name]
    card = card_of(PICKS, correct=1, wrong=2)
    text, unchanged = data_card(replace(card, **changes)), data_card(card)
    assert there in text
    assert not_there not in text
    assert there not in unchanged or not_there in unchanged


def test_every_column_is_explained():
    row = s1_row(Question("?"), Trace("", "", 0, "", "", ""))
    others = ["text", "domain", "thinking_tokens", "correct", "picked"]
    assert set(COLUMNS) == {*row, *others}
    text = data_card(card_of())
    assert all(f"\n- `{name}`: " in text for name in COLUMNS)


@given(texts)
def test_a_card_holds_any_text(text):
    hostile = pick(text, 10, text, text, text)
    card = card_of(
        [hostile],
        name=text,
        command=text,
        config_digest=text,
        funnel=[Stage(text, 2, 1, {text: 1})],
        sources={text: 2},
        licences={text: text},
        evaluation_sets={text: 1},
    )
    out, plain = data_card(card), data_card(replace(card_of(PICKS[:1]), funnel=SMALL[:1]))
    assert front_matter(out)["pretty_name"] == one_line(text)
    assert front_matter(out).keys() == front_matter(plain).keys()
    headings = [line for line in out.splitlines() if line.startswith("## ")]
    assert headings == [line for line in plain.splitlines() if line.startswith("## ")]
    assert not re.search(
        r"(?<!\\)<", out.split("---\n", 2)[2].replace(f"    {one_line(text, 2000)}", "")
    )
    out.encode()


def test_a_card_of_nothing_is_written():
    text = data_card(card_of(sources={}, kept={}, selected={}, tokens={}, funnel=[]))
    assert "0 questions of 0 domains" in text
    assert "- **Teacher**: nobody\n" in text
