"""What samples.html is made of besides its data: markup, style and script.

The script puts texts into the page as text nodes alone, never as markup, and asks no network.
"""

BODY = """
<header>
<div id="top"><h1>Samples</h1><p id="models"></p></div>
<div id="filters">
<label>task <select id="task"></select></label>
<label>model <select id="model"></select></label>
<label>run <select id="run"></select></label>
<label>verdict <select id="verdict"></select></label>
<label>group <select id="group"></select></label>
<label>text <input id="search" type="search" placeholder="anywhere in a sample"></label>
</div>
<p id="count" role="status"></p>
<details id="left-out" hidden><summary></summary><table></table></details>
</header>
<main>
<nav id="list" aria-label="samples"><ol id="rows"></ol><button id="more" hidden>more</button></nav>
<section id="reading" aria-label="sample" tabindex="-1"></section>
</main>
<footer><kbd>j</kbd> <kbd>k</kbd> next, previous sample · <kbd>n</kbd> <kbd>p</kbd> next, previous
forced text · <kbd>/</kbd> search · <kbd>Esc</kbd> list</footer>
<noscript>This page shows its samples with a script of its own, which is off here.</noscript>
"""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f5f5f7; --ink: #1b1b1f;
  --dim: #63636b; --rule: #d9d9df; --accent: #0b5cad; --chosen: #dfecfa; --right: #0a6b4b;
  --wrong: #ab3412; --none: #6b5600; --forced: #ffdf80; --forced-ink: #3f2d00;
  --odd: #f4d5d0; --odd-ink: #7a1c08; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17171a; --panel: #1f1f24; --ink: #ececf0; --dim: #a0a0aa; --rule: #37373f;
    --accent: #7db8f5; --chosen: #1e3652; --right: #5fd0a3; --wrong: #ff9a78; --none: #e3c65b;
    --forced: #6b5200; --forced-ink: #ffeab0; --odd: #5b2318; --odd-ink: #ffc9bb; }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; height: 100vh; height: 100dvh; display: flex; flex-direction: column;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
header { padding: .6rem 1rem; background: var(--panel); border-bottom: 1px solid var(--rule); }
h1 { margin: 0; font-size: 1.1rem; }
#top { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 1rem; }
p { margin: 0; }
#models, #count, #left-out, footer { color: var(--dim); font-size: .85rem;
  overflow-wrap: anywhere; }
#left-out { color: var(--wrong); }
#left-out table { display: block; border-collapse: collapse; max-height: 30vh; overflow-y: auto; }
#left-out td, #left-out th { padding: 0 .8rem 0 0; text-align: left; }
#filters { display: flex; flex-wrap: wrap; gap: .3rem .8rem; margin: .4rem 0; }
label { color: var(--dim); font-size: .85rem; }
select, input, button { font: inherit; color: var(--ink); background: var(--paper);
  max-width: 15rem; border: 1px solid var(--rule); border-radius: 5px; padding: .15rem .4rem; }
button { cursor: pointer; }
button:disabled { opacity: .45; cursor: default; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
main { flex: 1; min-height: 0; display: grid; grid-template-columns: minmax(16rem, 23rem) 1fr; }
nav { overflow-y: auto; border-right: 1px solid var(--rule); }
ol { list-style: none; margin: 0; padding: 0; }
#rows button { display: grid; grid-template-columns: 1.3rem 1fr; width: 100%; max-width: none;
  text-align: left; border: 0; border-bottom: 1px solid var(--rule); border-radius: 0;
  padding: .35rem .7rem; background: none; }
#rows button[aria-current] { background: var(--chosen); }
#rows span { overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
#rows .what { grid-column: 2; color: var(--dim); font-size: .8rem; }
#more { margin: .6rem; }
#reading { overflow-y: auto; padding: .8rem 1.2rem 3rem; min-width: 0; }
#reading:focus { outline: none; }
#bar { display: flex; flex-wrap: wrap; gap: .4rem .7rem; align-items: center;
  margin-bottom: .6rem; }
#back { display: none; }
h2 { margin: .2rem 0 .4rem; font-size: 1rem; overflow-wrap: anywhere; }
h3 { margin: .9rem 0 .2rem; font-size: .78rem; color: var(--dim); font-weight: 600; }
.right { color: var(--right); } .wrong { color: var(--wrong); } .none { color: var(--none); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; margin: 0;
  max-width: 85ch; font: inherit; }
.prompt { background: var(--panel); border-radius: 6px; padding: .5rem .8rem; }
#pair { display: grid; grid-template-columns: 1fr; gap: 1.4rem; }
article { min-width: 0; }
#reading.two { display: flex; flex-direction: column; overflow: hidden; padding-bottom: 0; }
#reading.two > * { flex: none; }
#reading.two > .prompt { max-width: none; max-height: 22%; overflow-y: auto; }
#reading.two #pair { flex: 1; min-height: 0; grid-template: minmax(0, 1fr) / 1fr 1fr; }
#reading.two article { overflow-y: auto; padding: 0 .6rem 2rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .9rem; margin: .3rem 0;
  font-size: .9rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.start, .thinking, .closing { color: var(--dim); }
.start, .closing, .forced { font-size: .88em;
  font-family: ui-monospace, "Liberation Mono", monospace; }
.answer { color: var(--ink); }
.forced { background: var(--forced); color: var(--forced-ink); border-radius: 3px;
  padding: 0 .15em; }
.forced.here { outline: 2px solid var(--accent); }
.odd { background: var(--odd); color: var(--odd-ink); border-radius: 3px; font-size: .8em;
  unicode-bidi: isolate; }
footer { padding: .25rem 1rem; border-top: 1px solid var(--rule); }
kbd { border: 1px solid var(--rule); border-radius: 3px; padding: 0 .3em; font-size: .9em; }
.key { font-size: .8rem; color: var(--dim); }
@media (max-width: 800px) {
  main { grid-template-columns: 1fr; }
  nav { border-right: 0; }
  body.reading nav, body.reading header, body:not(.reading) #reading { display: none; }
  #back { display: inline-block; }
  #filters { display: grid; grid-template-columns: 1fr 1fr; }
  #filters label { display: grid; }
  #filters select, #filters input { width: 100%; max-width: none; }
  body.reading #reading { display: block; overflow-y: auto; padding: .7rem .9rem 2rem; }
  #reading.two #pair { grid-template: auto / 1fr; }
  body #reading.two > .prompt { max-height: none; }
  #reading.two article { overflow: visible; padding: 0; }
  footer { display: none; }
}
"""

SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const samples = data.samples;
const $ = (id) => document.getElementById(id);
const STEP = 200;

// Control, format, lone surrogate, private and unassigned characters: shown by their numbers.
const ODD = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const number = (c) => "⟨U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩";
const visible = (text) => String(text).replace(ODD, number);

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = visible(text);
  return made;
}

// A text as it is, its odd characters apart; so many of them are not worth an element each.
function write(parent, text) {
  const found = [...text.matchAll(ODD)];
  if (found.length > 2000) return parent.append(visible(text));
  let from = 0;
  for (const match of found) {
    parent.append(text.slice(from, match.index), element("span", "odd", match[0]));
    from = match.index + match[0].length;
  }
  parent.append(text.slice(from));
}

const verdict = (s) => (s.correct ? "right" : s.answer === null ? "no answer" : "wrong");
const SIGNS = { right: "✓", wrong: "✗", "no answer": "–" };
const shade = (s) => (verdict(s) === "no answer" ? "none" : verdict(s));
const prompt = (s) => data.prompts[s.prompt];
const several = samples.some((s) => s.sample > 0);
const whose = (s) => s.run + (s.model === "base" ? " (base)" : "")
  + (several ? ` #${s.sample}` : "");
const number_of = (n) => n.toLocaleString("en");
const same = (a, b, keys) => keys.every((key) => a[key] === b[key]);
const RUN = ["task", "model", "run", "sample"], QUESTION = ["task", "id"];

// --- The list ---

const FILTERS = { task: (s) => s.task, model: (s) => s.model, run: (s) => s.run, verdict,
  group: (s) => s.group };
let found = [], listed = 0, current = null, beside = null;

for (const [name, of] of Object.entries(FILTERS)) {
  const values = [...new Set(samples.map(of))];
  $(name).append(new Option("all", ""));
  values.forEach((value, n) => $(name).append(new Option(visible(value) || "(none)", n)));
  $(name).values = values;
  $(name).parentElement.hidden = values.length < 2;
  $(name).addEventListener("change", filter);
}
let waiting;
$("search").addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 150);
});

function haystack(s) {
  return [s.id, prompt(s), s.gold, s.answer ?? "", ...s.pieces.map((piece) => piece[1])]
    .join("\n").toLowerCase();
}

function filter() {
  const wanted = Object.entries(FILTERS).filter(([name]) => $(name).value !== "")
    .map(([name, of]) => [of, $(name).values[Number($(name).value)]]);
  const text = $("search").value.toLowerCase();
  found = samples.filter((s) => wanted.every(([of, value]) => of(s) === value)
    && (!text || haystack(s).includes(text)));
  const right = found.filter((s) => s.correct).length;
  const share = found.length ? ` (${(100 * right / found.length).toFixed(1)}%)` : "";
  $("count").textContent = `${number_of(found.length)} of ${number_of(samples.length)} samples, `
    + `${number_of(right)} right${share}`;
  $("rows").replaceChildren();
  listed = 0;
  list(STEP);
  $("list").scrollTop = 0;
  if (found.length && !found.includes(current)) open(found[0], false);
  mark();
}

function list(upto) {
  for (const s of found.slice(listed, upto)) {
    const button = element("button");
    const line = prompt(s).slice(0, 300).trim().split("\n")[0];
    const what = `${s.task} ${s.id} · ${whose(s)} · ${number_of(s.thinking_tokens)} tokens`;
    button.append(element("span", shade(s), SIGNS[verdict(s)]), element("span", "", line),
      element("span", "what", what));
    button.addEventListener("click", () => open(s, true));
    const row = element("li");
    row.append(button);
    $("rows").append(row);
  }
  listed = Math.max(listed, Math.min(upto, found.length));
  $("more").hidden = listed >= found.length;
}

$("more").addEventListener("click", () => list(listed + STEP));
$("list").addEventListener("scroll", () => {
  const left = $("list").scrollHeight - $("list").scrollTop - $("list").clientHeight;
  if (left < 400 && listed < found.length) list(listed + STEP);
});

function mark() {
  const at = found.indexOf(current);
  if (at >= listed) list(at + STEP);
  for (const old of document.querySelectorAll("#rows [aria-current]")) {
    old.removeAttribute("aria-current");
  }
  const button = $("rows").children[at]?.firstChild;
  button?.setAttribute("aria-current", "true");
  button?.scrollIntoView({ block: "nearest" });
}

// --- A sample ---

function open(s, asked) {
  current = s;
  if (asked) document.body.classList.add("reading");
  try {
    const name = encodeURIComponent(JSON.stringify([s.task, s.model, s.run, s.id, s.sample]));
    history.replaceState(null, "", "#" + name);
  } catch { /* an address is not to be had of every text, nor in every place */ }
  show();
  mark();
}

function card(s, asked) {
  const made = element("article");
  const title = element("h2", shade(s), `${SIGNS[verdict(s)]} ${verdict(s)}`);
  title.append(element("span", "key", ` · ${whose(s)}`));
  const facts = element("dl");
  const judged = s.judged === null ? null : s.judged ? "right" : "wrong";
  const used = number_of(s.used_tokens);
  for (const [name, value] of [
    ["reference", s.gold],
    ["extracted", s.answer ?? "(no answer)"],
    ["decided by", s.reason],
    ["judge says", judged],
    ["thinking", `${number_of(s.thinking_tokens)} tokens (${used} as the engine counts)`],
    ["thinking ended by", s.ended === "itself" ? "itself" : s.ended && `the ${s.ended}`],
    ["ends ignored", s.ignored_ends || null],
    ["answer", `${number_of(s.answer_tokens)} tokens`],
    ["finish", s.finish],
  ]) {
    if (value !== null) facts.append(element("dt", "", name), element("dd", "", value));
  }
  made.append(title, facts);
  if (asked !== prompt(s)) made.append(element("h3", "", "asked as"), question(s));
  const text = element("div", "text whole");
  for (const [kind, piece] of s.pieces) {
    const forced = kind === "inserted" || (kind === "closing" && s.forced);
    const span = element("span", forced ? `${kind} forced` : kind);
    write(span, piece);
    text.append(span);
  }
  made.append(element("h3", "", "what the model wrote"), text);
  return made;
}

function question(s) {
  const text = element("div", "text prompt");
  write(text, prompt(s));
  return text;
}

function show() {
  const s = current;
  const others = samples.filter((other) => other !== s && same(other, s, QUESTION));
  const other = beside && others.find((one) => same(one, beside, RUN));
  const bar = element("div");
  bar.id = "bar";
  const back = element("button", "", "← list");
  back.id = "back";
  back.addEventListener("click", () => document.body.classList.remove("reading"));
  const choice = element("select");
  choice.id = "compare";
  choice.append(new Option("nothing", ""));
  others.forEach((one, n) => {
    const text = visible(`${whose(one)}: ${verdict(one)}`);
    choice.append(new Option(text, n, false, one === other));
  });
  choice.addEventListener("change", () => {
    beside = choice.value === "" ? null : others[Number(choice.value)];
    show();
  });
  const label = element("label", "", "beside it ");
  label.append(choice);
  label.hidden = !others.length;
  const next = element("button", "", "");
  next.id = "next";
  next.addEventListener("click", () => jump(1));
  bar.append(back, next, label);
  const pair = element("div");
  $("reading").classList.toggle("two", Boolean(other));
  pair.id = "pair";
  pair.append(...[s, other].filter(Boolean).map((one) => card(one, prompt(s))));
  const title = element("h2", "", `${s.task} ${s.id}${s.group ? ` · ${s.group}` : ""}`);
  $("reading").replaceChildren(bar, title, question(s), pair);
  $("reading").scrollTop = 0;
  const forced = document.querySelectorAll("#reading .forced").length;
  next.textContent = forced ? `next forced text (${forced})` : "nothing was forced";
  next.disabled = !forced;
}

function jump(way) {
  const all = [...document.querySelectorAll("#reading .forced")];
  if (!all.length) return;
  const before = all.findIndex((one) => one.classList.contains("here"));
  const at = before < 0 ? (way > 0 ? 0 : all.length - 1) : (before + way + all.length) % all.length;
  all[before]?.classList.remove("here");
  all[at].classList.add("here");
  all[at].scrollIntoView({ block: "center" });
}

function step(way) {
  const at = found.indexOf(current) + way;
  if (at >= 0 && at < found.length) open(found[at], true);
}

const KEYS = { j: () => step(1), k: () => step(-1), n: () => jump(1), p: () => jump(-1),
  "/": () => $("search").focus(), Escape: () => document.body.classList.remove("reading") };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (!Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
});

// --- At the start ---

function named() {
  try {
    const wanted = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    return samples.find((s) => [s.task, s.model, s.run, s.id, s.sample]
      .every((value, n) => value === wanted[n]));
  } catch { return undefined; }
}

$("models").textContent = Object.entries(data.models)
  .map(([name, path]) => `${name}: ${visible(path)}`).join(" · ");
if (samples.length < data.total) {
  $("left-out").hidden = false;
  $("left-out").firstElementChild.textContent = `${number_of(samples.length)} of `
    + `${number_of(data.total)} samples are on this page: the first questions of each run. `
    + "All are in generations.jsonl.";
  const table = $("left-out").lastElementChild;
  for (const cells of [["task", "model", "run", "questions", "samples"], ...data.parts]) {
    const row = element("tr");
    row.append(...cells.map((text) => element("td", "", text)));
    table.append(row);
  }
}
addEventListener("hashchange", () => {
  const s = named();
  if (s) open(s, true);
});
const asked = named();
if (asked) open(asked, true);
filter();
if (!samples.length) $("reading").append(element("p", "", "There are no samples to show."));
"""
