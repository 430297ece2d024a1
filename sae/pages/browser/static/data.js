"use strict";
// What the pages show. A page that is opened from disk may not read JSON, so the data are scripts
// that call given(name, value), and load(name) adds the script to the page.

const data = {};
const loading = {};

function given(name, value) {
  data[name] = value;
}

function load(name) {
  loading[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = name === "notes" ? "notes.js" : `browser/${name}.js`;
    script.onload = () => resolve(data[name]);
    script.onerror = () => reject(new Error(`${script.src} is missing: write the pages again`));
    document.head.append(script);
  });
  return loading[name];
}

// Until the index is there, the rows of the first page stand for it.
const index = { count: 0, features: null, columns: {}, words: {}, complete: false };

async function loadFirst() {
  await Promise.all([load("first"), load("notes")]);
  const { facts, features, rows, words } = data.first;
  const columns = {};
  for (const [name, column] of Object.entries(rows)) {
    columns[name] = [];
    features.forEach((feature, i) => (columns[name][feature] = column[i]));
  }
  Object.assign(index, { count: facts.d_sae, features, columns, words });
}

async function loadIndex() {
  if (index.complete) return;
  await Promise.all([load("index"), load("words")]);
  prepareSearch();
  Object.assign(index, { features: null, columns: data.index, words: data.words, complete: true });
}

async function loadFeature(feature) {
  const size = data.first.facts.in_file;
  const file = String(Math.floor(feature / size)).padStart(4, "0");
  return (await load(`features-${file}`))[feature % size];
}

const word = (id) => index.words[id] ?? `<${id}>`;
const note = (feature) => data.notes[feature] ?? "";
const exists = (feature) => Number.isInteger(feature) && feature >= 0 && feature < index.count;

// Which features, and in which order ------------------------------------------------------------

const SORTS = {
  density: "how often it fires",
  max: "its largest value",
  effect: "by how much it raises a logit",
  alignment: "cosine of encoder and decoder row",
  number: "its number",
};

// All features in an order; those that never fire and those without the number come last.
function ordered(sort, ascending) {
  const all = Array.from({ length: index.count }, (_, i) => i);
  if (sort === "number") return ascending ? all : all.reverse();
  const { density, [sort]: column } = index.columns;
  const key = new Float64Array(index.count).fill(Infinity);
  for (const i of all) if (density[i] > 0 && column[i] !== null) key[i] = ascending ? column[i] : -column[i];
  return all.sort((a, b) => (key[a] === key[b] ? a - b : key[a] - key[b]));
}

const orders = {};
const texts = {};

// By feature, what is searched, in lower case; the characters between tokens are in no query.
function prepareSearch() {
  const words = data.words.map((text) => text.toLowerCase());
  for (const name of ["tokens", "raised"]) {
    texts[name] = data.index[name].map((ids) => `\0${ids.map((id) => words[id]).join("\0")}\0`);
  }
  texts.all = texts.tokens.map((text, i) => [text, texts.raised[i]].join("")); // joined, to be one piece
}

// Those in which the query is a whole token come first, among them those that fire on it.
function found({ query, where, sort, ascending }) {
  if (!index.complete) return index.features;
  const all = (orders[`${sort} ${ascending}`] ??= ordered(sort, ascending));
  if (!query) return all;
  const wanted = query.toLowerCase();
  const whole = wanted.trim();
  const isWhole = (text) => text.includes(`\0${whole}\0`) || text.includes(`\0 ${whole}\0`);
  const number = /^#?\d+$/.test(whole) ? Number(whole.replace("#", "")) : null;
  const ranks = [exists(number) ? [number] : [], [], [], []];
  for (const i of all) {
    const text = where === "notes" ? "" : texts[where][i];
    const inNote = ["all", "notes"].includes(where) && note(i).toLowerCase().includes(wanted);
    if (i === number || !(inNote || text.includes(wanted))) continue;
    if (["all", "tokens"].includes(where) && isWhole(texts.tokens[i])) ranks[1].push(i);
    else ranks[isWhole(text) ? 2 : 3].push(i);
  }
  return ranks.flat();
}
