"use strict";
// A prompt in the model: its features, and what the model says next with some of them changed.
// Only where `featureloom features --serve` has the model.

const N_SHOWN = 14;
const prompt = { text: "", place: 0, edits: [], answer: null, asked: 0 };

const isServed = () => "served" in document.documentElement.dataset;

async function ask(name, question) {
  const response = await fetch(`api/${name}`, { method: "POST", body: JSON.stringify(question) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function readPrompt() {
  const mine = ++prompt.asked;
  const status = document.getElementById("status");
  status.textContent = "reading …";
  try {
    const answer = await ask("prompt", { text: prompt.text, edits: prompt.edits });
    if (mine !== prompt.asked) return; // a later question is on its way
    const isOther = answer.tokens.join() !== prompt.answer?.tokens.join();
    if (isOther) prompt.place = answer.tokens.length - 1;
    prompt.answer = answer;
    status.textContent = "";
    showAnswer();
  } catch (error) {
    status.textContent = error.message;
  }
}

// The list shows it at once, the rest when the model has answered.
function setEdits(edits) {
  prompt.edits = edits;
  document.querySelector(".edits").replaceWith(editList());
  readPrompt();
}

const others = (feature) => prompt.edits.filter((edit) => edit.feature !== feature);
const change = (feature, kind, value) => setEdits([...others(feature), { feature, kind, value }]);

// The prompt, shaded by the feature that the pointer is on.
function promptTokens() {
  return prompt.answer.tokens.map((id, place) =>
    el("button.plain", { onclick: () => { prompt.place = place; showAnswer(); }, "aria-current": String(place === prompt.place) }, token(id)));
}

function shadeBy(feature) {
  const values = prompt.answer.active.map((its) => its.find(([other]) => other === feature)?.[1] ?? 0);
  const largest = Math.max(1e-9, ...values.map(Math.abs));
  document.querySelectorAll(".prompt-tokens button").forEach((button, place) =>
    button.replaceChildren(token(prompt.answer.tokens[place], values[place], largest)));
}

function activeTable() {
  const active = prompt.answer.active[prompt.place];
  if (!active.length) return el("p.empty", {}, prompt.place ? "No feature is active here." : "The first token: dictionaries are not trained on it.");
  return el("table.active", {}, active.slice(0, N_SHOWN).map(([feature, value]) => {
    const edit = prompt.edits.find((e) => e.feature === feature);
    return el("tr", { onpointerenter: () => shadeBy(feature) }, el("td", {}, linkTo(feature)), el("td.about", {}, about(feature, 4)), el("td.value", {}, num(value)),
      el("td.actions", {},
        el("button", { onclick: () => change(feature, "scale", 0), "aria-pressed": String(edit?.value === 0) }, "off"),
        el("button", { onclick: () => change(feature, "scale", 3), "aria-pressed": String(edit?.value === 3) }, "× 3")));
  }));
}

function editList() {
  const number = el("input", { placeholder: "number", "aria-label": "number of a feature", inputmode: "numeric", size: 7 });
  const value = el("input", { placeholder: "value", "aria-label": "value to set it to", inputmode: "decimal", size: 6 });
  const add = (event) => {
    event.preventDefault();
    const feature = Number(number.value);
    if (!number.value.trim() || !exists(feature)) return;
    change(feature, "set", value.value.trim() ? Number(value.value) : index.columns.max[feature]);
  };
  return el("div.edits", {},
    prompt.edits.map((edit) => el("p.edit", {}, linkTo(edit.feature), " ", about(edit.feature, 3), " ",
      edit.kind === "set" ? `set to ${num(edit.value)} ` : edit.value === 0 ? "off " : `× ${num(edit.value)} `,
      el("button", { onclick: () => setEdits(others(edit.feature)), "aria-label": `leave ${edit.feature} as it is` }, "undo"))),
    el("form", { onsubmit: add }, "Set feature ", number, " to ", value, " ", el("button", {}, "set")));
}

// The likeliest tokens, with a second bar where something is changed.
function nextTable(before, after) {
  const ids = [...new Set([...before, ...(after ?? [])].map(([id]) => id))];
  const cell = (pairs, id, kind) => {
    const p = pairs.find(([other]) => other === id)?.[1];
    const bar = el(`span.bar.${kind}`);
    bar.style.setProperty("--share", `${100 * (p ?? 0)}%`);
    return el("td.value", {}, bar, el("span.n", {}, p === undefined ? `< ${percent(pairs.at(-1)[1])}` : percent(p)));
  };
  return el("table.next", {},
    after ? el("tr", {}, el("th"), el("th", {}, "as it is"), el("th", {}, "changed")) : null,
    ids.map((id) => el("tr", {}, el("td", {}, chip(id)), cell(before, id, "before"), after ? cell(after, id, "after") : null)));
}

const continuation = (ids) => el("p.continuation", {}, ids.map((id) => token(id)));

function showAnswer() {
  const { next, continued, changed } = prompt.answer;
  document.getElementById("answer").replaceChildren(
    el("div.prompt-tokens", {}, promptTokens()),
    el("div.halves", {},
      el("section.small", {}, el("h2", {}, "Strongest features on ", chip(prompt.answer.tokens[prompt.place])),
        el("p.hint", {}, "Click another token above; point at a feature to see where else it is active."), activeTable(),
        el("h2", {}, "Changed, at all tokens but the first"), editList()),
      el("section.small", {}, el("h2", {}, "Next token"), nextTable(next[prompt.place], changed?.next[prompt.place]),
        el("h2", {}, "How the model continues"), continuation(continued),
        changed ? [el("h2", {}, "With the change"), continuation(changed.continued)] : null)));
}

function showPrompt() {
  if (!isServed()) {
    show(el("p.empty", {}, "A prompt needs the model: featureloom features RUN_OR_DICTIONARY --serve"));
    return;
  }
  const text = el("textarea", { id: "prompt", rows: 3, "aria-label": "prompt", placeholder: "Type a prompt" });
  text.value = prompt.text;
  text.addEventListener("input", () => (prompt.text = text.value));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) readPrompt();
  });
  show(
    el("div.head", {}, el("h1", {}, "A prompt")), text,
    el("div.actions", {}, el("button", { id: "read", onclick: readPrompt }, "Read"), el("span.hint", { id: "status", role: "status" }, "Ctrl + Enter")),
    el("div", { id: "answer" }));
  if (prompt.answer) showAnswer();
  else text.focus();
}
