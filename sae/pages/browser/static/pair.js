"use strict";
// Two features side by side: what is the same, and what is not.

// A number that the lists of either feature have, or that it is below the last that is listed.
function listed(pairs, other, format) {
  const hit = pairs.find(([feature]) => feature === other);
  if (hit) return format(hit[1]);
  return pairs.length ? `less than ${format(pairs.at(-1)[1])}` : "–";
}

function common(name, a, b, format) {
  const of = new Map(b.map(([id, value]) => [id, value]));
  const rows = a.filter(([id]) => of.has(id)).map(([id, value]) =>
    el("tr", {}, el("td", {}, chip(id)), el("td.value", {}, format(value)), el("td.value", {}, format(of.get(id)))));
  return el("section.small", {}, el("h2", {}, name),
    rows.length ? el("table", {}, rows) : el("p.hint", {}, "none among those listed"));
}

// Contexts of the one in whose text a context of the other lies too, with the values of both.
function sharedContexts(a, b) {
  const values = new Map();
  for (const [, position, at, , places, active] of b.contexts) {
    places.forEach((place, i) => values.set(position - at + place, active[i]));
  }
  const seen = new Set();
  return a.contexts.filter(([, position, at, ids]) => {
    const start = position - at;
    const isNew = !seen.has(position);
    seen.add(position);
    return isNew && ids.some((_, place) => values.has(start + place));
  }).map((context) => {
    const start = context[1] - context[2];
    return contextLine(context, a.max, (spans) => spans.forEach((span, place) => {
      if (!values.has(start + place)) return;
      span.classList.add("other");
      span.style.setProperty("--other", `${Math.round(15 + 75 * Math.min(1, values.get(start + place) / b.max))}%`);
    }));
  });
}

function side(feature, it) {
  return el("div", {},
    el("h2.title", {}, linkTo(feature), " ", about(feature, 5)),
    el("p.hint", {}, `density ${percent(it.density)}, largest value ${num(it.max)}, alignment ${num(it.alignment)}`),
    it.n_active ? histogram(it.histogram, Math.min(0, it.min), it.max) : null,
    contextGroups(it.contexts.filter(([kind]) => kind === "top").slice(0, 10), Math.max(it.max, -it.min)));
}

async function showPair(first, second) {
  const [a, b] = await Promise.all([loadFeature(first), loadFeature(second)]);
  const shared = sharedContexts(a, b);
  const facts = [
    ["Cosine of decoder rows", listed(a.decoder, second, num)],
    ["Cosine of encoder rows", listed(a.encoder, second, num)],
    [`${second} is active on tokens of ${first}`, listed(a.with, second, percent)],
    [`${first} is active on tokens of ${second}`, listed(b.with, first, percent)],
    [`${second} on the token after`, listed(a.after, second, percent)],
    [`${second} on the token before`, listed(a.before, second, percent)],
  ];
  show(
    el("div.head", {}, el("h1", {}, `Features ${first} and ${second}`),
      el("div.actions", {}, el("a", { href: `#/pair/${second}/${first}` }, "the other way round"))),
    el("div.thirds", {},
      el("section.small", {}, el("h2", {}, "Between them"),
        el("table", {}, facts.map(([name, value]) => el("tr", {}, el("td", {}, name), el("td.value", {}, value))))),
      common("Both fire on", a.tokens, b.tokens, count),
      common("Both raise", a.raised, b.raised, num)),
    shared.length ? el("section.contexts", {}, el("h2", {}, `Where both have a context: `, el("span.fires.key", {}, String(first)), " ", el("span.other.key", {}, String(second))), shared) : null,
    el("div.halves", {}, side(first, a), side(second, b)));
}
