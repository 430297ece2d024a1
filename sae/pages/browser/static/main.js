"use strict";
// Which page is shown, and the keys. The address after # names the page: #/feature/12.

async function route() {
  const [page, ...numbers] = location.hash.replace(/^#\/?/, "").split("/");
  const [first, second] = numbers.map(Number);
  const needsAll = page !== "";
  try {
    if (needsAll) await loadIndex();
    if (page === "feature" && exists(first)) await showFeature(first);
    else if (page === "pair" && exists(first) && exists(second)) await showPair(first, second);
    else if (page === "density") showDensity();
    else if (page === "map") await showMap();
    else if (page === "prompt") showPrompt();
    else if (page === "") showList();
    else throw new Error(`there is no page ${location.hash}: features are 0 to ${index.count - 1}`);
  } catch (error) {
    show(el("p.empty", {}, error.message));
  }
  document.title = [page && [page, ...numbers].join(" "), "Features", data.first?.facts.hook_name].filter(Boolean).join(" · ");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

const open = (hash) => (location.hash = hash);

// The next feature in the order of the list.
function beside(feature, step) {
  const order = list.order.length > 1 && index.complete ? list.order : found(list);
  const at = order.indexOf(feature);
  if (at < 0) return (feature + step + index.count) % index.count;
  return order[(at + step + order.length) % order.length];
}

// Keys ------------------------------------------------------------------------------------------

const KEYS = [
  ["/", "search"],
  ["j k, ↓ ↑", "next and previous row"],
  ["Enter", "open it"],
  ["j k, → ←", "next and previous feature, in the order of the list"],
  ["r", "a random feature that fires"],
  ["c", "copy the feature as Python"],
  ["l", "the list"],
  ["d", "density and largest value"],
  ["m", "map of decoder rows"],
  ["p", "a prompt (served)"],
  ["?", "these keys"],
];

function random() {
  const firing = Array.from({ length: index.count }, (_, i) => i).filter((i) => index.columns.density[i] > 0);
  open(`#/feature/${firing[Math.floor(Math.random() * firing.length)]}`);
}

const STEPS = { j: 1, ArrowDown: 1, ArrowRight: 1, k: -1, ArrowUp: -1, ArrowLeft: -1 };

function step(event) {
  const [page, feature] = location.hash.replace(/^#\/?/, "").split("/");
  const isSideways = ["ArrowLeft", "ArrowRight"].includes(event.key);
  const isUpDown = ["ArrowUp", "ArrowDown"].includes(event.key);
  if (page === "feature" && !isUpDown) open(`#/feature/${beside(Number(feature), STEPS[event.key])}`);
  else if (page === "" && !isSideways) mark(STEPS[event.key]);
  else return;
  event.preventDefault();
}

const ACTIONS = {
  "/": () => document.getElementById("search").focus(),
  Enter: () => markedFeature() && open(`#/feature/${markedFeature()}`),
  r: random,
  c: () => document.getElementById("copy")?.click(),
  l: () => open("#/"),
  d: () => open("#/density"),
  m: () => open("#/map"),
  p: () => open("#/prompt"),
  "?": () => document.getElementById("help").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "search")) event.target.blur();
    return;
  }
  if (event.key in STEPS) step(event);
  else if (event.target.matches("button, a") && event.key === "Enter") return;
  else if (event.key in ACTIONS) {
    event.preventDefault();
    ACTIONS[event.key]();
  }
}

// The beginning ---------------------------------------------------------------------------------

async function search() {
  list.query = document.getElementById("search").value;
  list.where = document.getElementById("where").value;
  if (list.query) await loadIndex();
  const page = location.hash.replace(/^#\/?/, "");
  if (page === "" || page === "density" || page === "map") route();
  else open("#/");
}

async function begin() {
  followPointer();
  document.addEventListener("keydown", onKey);
  for (const id of ["search", "where"]) document.getElementById(id).addEventListener("input", search);
  addEventListener("hashchange", () => {
    scrollTo(0, 0);
    route();
  });
  const help = document.getElementById("help");
  help.append(el("h2", {}, "Keys"), el("table", {}, KEYS.map(([key, does]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, does)))),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  document.getElementById("to-help").addEventListener("click", () => help.showModal());
  document.getElementById("to-prompt").hidden = !isServed();
  await loadFirst();
  list.sort = data.first.facts.has_logits ? "effect" : "density";
  document.getElementById("to-map").hidden = !data.first.facts.has_map;
  await route();
  await loadIndex();
  if (/^#?\/?$/.test(location.hash)) showList(); // now of all features
}

begin();
