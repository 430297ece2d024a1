"use strict";
// All features: searched, sorted, a row each.

const ROWS_AT_ONCE = 16;
const list = { query: "", where: "all", sort: "density", ascending: false, order: [], marked: 0 };

const HEADS = [
  ["number", "feature"], ["density", "density"], ["max", "max"], ["effect", "effect"], ["alignment", "alignment"],
];

function head([sort, label]) {
  const current = list.sort === sort;
  const arrow = current ? (list.ascending ? " ↑" : " ↓") : "";
  const order = current ? (list.ascending ? "ascending" : "descending") : "none";
  const title = `sort by ${SORTS[sort]}`;
  return el(`th.${sort}`, { scope: "col", "aria-sort": order }, el("button", { title, onclick: () => sortBy(sort) }, label + arrow));
}

function sortBy(sort) {
  list.ascending = list.sort === sort ? !list.ascending : sort === "number";
  list.sort = sort;
  showList();
}

function row(feature) {
  const { density, max, effect, alignment, raised, context } = index.columns;
  const cells = density[feature]
    ? [percent(density[feature]), num(max[feature]), num(effect[feature]), num(alignment[feature])]
    : ["never", "–", "–", num(alignment[feature])];
  const [at, ids] = context[feature].length ? context[feature] : [0, []];
  const values = ids.map((_, i) => (i === at ? 1 : 0));
  return el("tr", { "data-feature": feature },
    el("th.number", { scope: "row" }, linkTo(feature)),
    el("td.density", {}, cells[0]), el("td.max", {}, cells[1]), el("td.effect", {}, cells[2]), el("td.alignment", {}, cells[3]),
    el("td.about", {}, about(feature, 6),
      raised[feature].length && density[feature] ? el("span.raises", {}, "raises ", chips(raised[feature].slice(0, 4))) : null),
    el("td.context", {}, ids.length ? concordance(ids, at, values, 1, null) : null));
}

function showList() {
  list.order = found(list);
  list.marked = 0;
  const body = el("tbody");
  const end = el("p.end");
  let shown = 0;
  const more = () => {
    const next = list.order.slice(shown, shown + ROWS_AT_ONCE);
    body.append(...next.map(row));
    shown += next.length;
    const total = index.complete ? list.order.length : index.count;
    end.textContent = shown < total ? `${count(shown)} of ${count(total)}` : total ? "" : "no feature is found";
  };
  more();
  const summary = list.query && index.complete
    ? `${count(list.order.length)} of ${count(index.count)} features`
    : headline();
  const table = el("table.list", {}, el("thead", {}, el("tr", {}, HEADS.map(head),
    el("th", { scope: "col" }, "fires on"), el("th.context", { scope: "col" }, "where it is largest"))), body);
  show(el("p.summary", {}, summary), table, end);
  new IntersectionObserver((seen) => {
    if (seen[0].isIntersecting && shown < list.order.length) more();
  }, { rootMargin: "400px" }).observe(end);
}

function headline() {
  const { d_sae, n_tokens, hook_name, model, dataset } = data.first.facts;
  const name = model?.startsWith("/") ? model.split("/").pop() : model;
  const of = [hook_name, name].filter(Boolean).join(" of ");
  return `${count(d_sae)} features${of ? ` at ${of}` : ""}, over ${count(n_tokens)} tokens${dataset ? ` of ${dataset}` : ""}`;
}

// The row that the keys have chosen.
function mark(step) {
  const rows = [...document.querySelectorAll("tr[data-feature]")];
  const before = rows.findIndex((r) => r.classList.contains("marked"));
  const now = Math.max(0, Math.min(rows.length - 1, before + step));
  rows[before]?.classList.remove("marked");
  rows[now]?.classList.add("marked");
  rows[now]?.scrollIntoView({ block: "nearest" });
}

const markedFeature = () => document.querySelector("tr.marked")?.dataset.feature;
