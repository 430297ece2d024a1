"use strict";
// A page for one feature.

function groupTitle(kind) {
  if (kind === "top") return "Largest values";
  const [low, high] = kind.match(/[\d.]+/g).map((share) => num(100 * Number(share)));
  return `From the ${low} % to the ${high} % quantile of its active tokens`;
}

function contextGroups(contexts, largest, more = null) {
  const groups = new Map();
  for (const context of contexts) {
    if (!groups.has(context[0])) groups.set(context[0], []);
    groups.get(context[0]).push(context);
  }
  return [...groups].map(([kind, its]) =>
    el("section.contexts", {}, el("h2", {}, groupTitle(kind)), its.map((context) => contextLine(context, largest, more))));
}

function tokenTable(title, pairs, format, note = "") {
  if (!pairs.length) return null;
  const most = Math.max(...pairs.map(([, value]) => Math.abs(value)));
  const rows = pairs.map(([id, value]) => {
    const bar = el("span.bar");
    bar.style.setProperty("--share", `${(100 * Math.abs(value)) / most}%`);
    return el("tr", {}, el("td", {}, chip(id)), el("td.value", {}, bar, format(value)));
  });
  return el("section.small", {}, el("h2", {}, title), note ? el("p.hint", {}, note) : null, el("table", {}, rows));
}

function featureTable(title, feature, pairs, format, hint) {
  if (!pairs.length) return null;
  const rows = pairs.map(([other, value]) =>
    el("tr", {}, el("td", {}, linkTo(other)), el("td.about", {}, about(other, 3)), el("td.value", {}, format(value)),
      el("td", {}, el("a.both", { href: `#/pair/${feature}/${other}`, title: `${feature} and ${other} together` }, "⇄"))));
  return el("section.small", {}, el("h2", {}, title), hint ? el("p.hint", {}, hint) : null, el("table", {}, rows));
}

const tile = (name, value, under) => el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd.hint", {}, under));

// Null is what is not known: a dictionary may have no twins.
function overSeeds(its) {
  const ofTwins = its.twin_correlation === null ? "" : `; with twins ${num(its.nearest_twin)} and ${num(its.twin_correlation)}`;
  const near = `cosine ${num(its.matched_cosine)} and correlation ${num(its.matched_correlation)} with its partners${ofTwins}`;
  return tile("Over seeds", its.verdict, `in ${percent(its.reappears)} of the other seeds: ${near}`);
}

function tiles(it) {
  const { n_tokens, has_logits } = data.first.facts;
  return el("dl.tiles", {},
    tile("Density", percent(it.density), `${count(it.n_active)} of ${count(n_tokens)} tokens`),
    tile("Largest value", num(it.max), `mean ${num(it.mean_active)} ± ${num(it.std_active)} where active`),
    has_logits ? tile("Logit effect", num(it.raised[0]?.[1]), "of its row of the decoder, on the token it raises most") : null,
    tile("Alignment", num(it.alignment), "cosine of encoder and decoder row"),
    it.seeds ? overSeeds(it.seeds) : null,
    tile("Norms", `${num(it.encoder_norm)}, ${num(it.decoder_norm)}`, "encoder and decoder row"));
}

function asPython(feature) {
  const served = location.protocol !== "file:";
  const folder = served ? "features" : decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
  return `import sae.features\n\nfeature = sae.features.open(${JSON.stringify(folder)})[${feature}]\nfeature.top`;
}

async function copyPython(feature) {
  const button = document.getElementById("copy");
  try {
    await navigator.clipboard.writeText(asPython(feature));
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(document.getElementById("python")); // to be copied by hand
    button.textContent = "Selected";
  }
}

function noteOf(feature) {
  if (!isServed()) return note(feature) ? el("p.note", {}, note(feature)) : null;
  const input = el("input.note", { value: note(feature), placeholder: "Write a note", "aria-label": "Note", maxlength: 500 });
  input.addEventListener("change", async () => {
    data.notes = await ask("note", { feature, note: input.value });
  });
  return input;
}

function compareWith(feature) {
  const input = el("input", { placeholder: "number", "aria-label": "number of another feature", inputmode: "numeric", size: 7 });
  const go = (event) => {
    event.preventDefault();
    if (exists(Number(input.value)) && input.value.trim()) location.hash = `#/pair/${feature}/${Number(input.value)}`;
  };
  return el("form.compare", { onsubmit: go }, "together with ", input);
}

function featureHead(feature) {
  return el("div.head", {},
    el("h1", {}, `Feature ${feature}`), noteOf(feature),
    el("div.actions", {},
      el("a", { href: `#/feature/${beside(feature, -1)}`, rel: "prev" }, "← previous"),
      el("a", { href: `#/feature/${beside(feature, 1)}`, rel: "next" }, "next →"),
      compareWith(feature),
      el("button", { id: "copy", onclick: () => copyPython(feature) }, "Copy as Python")));
}

async function showFeature(feature) {
  const it = await loadFeature(feature);
  const { n_looked_at } = data.first.facts;
  const looked = `on what share of ${it.n_active > n_looked_at ? `${n_looked_at} of its tokens` : "its tokens"}`;
  const share = (value) => percent(value);
  const main = it.n_active
    ? contextGroups(it.contexts, Math.max(it.max, -it.min))
    : [el("p.empty", {}, "It never fires on this text.")];
  show(
    featureHead(feature), tiles(it),
    el("div.columns", {},
      el("div.wide", {}, main),
      el("div.narrow", {},
        it.n_active ? el("section.small", {}, el("h2", {}, "Histogram"), histogram(it.histogram, Math.min(0, it.min), it.max)) : null,
        tokenTable("Fires on", it.tokens, (n) => count(n), "how often"),
        tokenTable("Raises", it.raised, num, "logits, by direct effect"),
        tokenTable("Lowers", it.lowered, num),
        featureTable("Similar decoder rows", feature, it.decoder, num, "cosine"),
        featureTable("Similar encoder rows", feature, it.encoder, num, "cosine"),
        featureTable("Active on the same token", feature, it.with, share, looked),
        featureTable("On the token before", feature, it.before, share, looked),
        featureTable("On the token after", feature, it.after, share, looked),
        el("section.small", {}, el("h2", {}, "In Python"), el("pre", { id: "python" }, asPython(feature))))));
}
