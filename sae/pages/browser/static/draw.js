"use strict";
// Small pieces of pages. Text only ever becomes text nodes, whatever is in it.

function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function show(...children) {
  document.getElementById("main").replaceChildren(...children.flat().filter((child) => child !== null));
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Numbers and text ------------------------------------------------------------------------------

function num(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

const percent = (share) => `${num(100 * share)} %`;
const count = (n) => n.toLocaleString("en");

// Characters that cannot be seen, or that would turn the line around, as what they are.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}]/gu;
const NAMED = { "\n": "↵", "\t": "⇥", "\r": "␍" };

function visible(text) {
  return text.replace(UNSEEN, (c) => NAMED[c] ?? `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
}

// Tokens ----------------------------------------------------------------------------------------

// A token by itself, with its spaces to be seen.
const chip = (id) => el("span.chip", { "data-token": id }, visible(word(id)));
const chips = (ids) => el("span.chips", {}, ids.map(chip));

// A token of a text, shaded by a value between -largest and largest.
function token(id, value = 0, largest = 1) {
  const made = el("span.token", { "data-token": id, "data-value": value || null }, visible(word(id)));
  if (value) {
    made.classList.add(value > 0 ? "fires" : "negative");
    made.style.setProperty("--share", `${Math.round(15 + 75 * Math.min(1, Math.abs(value) / largest))}%`);
  }
  if (word(id).includes("\n")) made.append(el("br"));
  return made;
}

// A line with one token in the middle; clicking shows all of the text around it.
function concordance(ids, at, values, largest, lead, more = null) {
  const spans = ids.map((id, i) => token(id, values[i], largest));
  if (more) more(spans);
  const line = el(
    "div.line",
    { onclick: () => line.classList.toggle("open") },
    lead === null ? null : el("span.lead", {}, lead),
    el("span.text", {},
      el("span.before", {}, el("span", {}, spans.slice(0, at))),
      el("span.after", {}, el("span.at", {}, spans[at]), spans.slice(at + 1)),
    ),
  );
  return line;
}

// A context of a feature as its file has it.
function contextLine([, position, at, ids, places, active], largest, more) {
  const values = new Array(ids.length).fill(0);
  places.forEach((place, i) => (values[place] = active[i]));
  const line = concordance(ids, at, values, largest, num(values[at]), more);
  line.title = `token ${count(position)} of the text`;
  return line;
}

// Features --------------------------------------------------------------------------------------

const linkTo = (feature) => el("a.number", { href: `#/feature/${feature}` }, String(feature));

// What is known of a feature on a line: what somebody wrote down, or the tokens it fires on.
function about(feature, n = 4) {
  if (note(feature)) return el("span.note", {}, note(feature));
  return chips((index.columns.tokens?.[feature] ?? []).slice(0, n));
}

function histogram(counts, low, high) {
  const [width, height] = [300, 90];
  const top = Math.max(1, ...counts);
  const each = width / counts.length;
  const bars = counts.map((n, i) => {
    const tall = n ? Math.max(1, (n / top) * height) : 0;
    const [from, to] = [low + ((high - low) * i) / counts.length, low + ((high - low) * (i + 1)) / counts.length];
    return svg("rect", { x: i * each + 0.5, y: height - tall, width: each - 1, height: tall },
      svg("title", {}, `${count(n)} tokens from ${num(from)} to ${num(to)}`));
  });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "histogram of its values" }, ...bars);
  return el("figure.histogram", {}, drawing,
    el("figcaption", {}, el("span", {}, num(low)), el("span", {}, "value where it is active"), el("span", {}, num(high))));
}

// What the pointer is on ------------------------------------------------------------------------

function tipOf(target) {
  const { token: id, value } = target.dataset;
  const text = `${JSON.stringify(word(id))}  token ${id}`;
  return value === undefined ? text : `${num(Number(value))}  ${text}`;
}

function followPointer() {
  const tip = document.getElementById("tip");
  document.addEventListener("pointerover", (event) => {
    const target = event.target.closest?.("[data-token]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = visible(tipOf(target));
    const box = target.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${box.bottom + 6 + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 6 : box.bottom + 6}px`;
  });
}
