"use strict";
// All features as points: density against largest value, and the map of decoder rows.

const NEAR = 14; // pixels

// Points [x, y] from 0 to 1 by feature, or null; what the search has found is in colour.
function plot(points, { title, hint, axes }) {
  const canvas = el("canvas.plot", { tabindex: 0, role: "img", "aria-label": title });
  const label = el("p.under", {}, "Point at a feature; click to open it. Scroll to zoom, drag to move.");
  const view = { scale: 1, x: 0, y: 0 };
  const chosen = new Set(list.query ? found(list) : []);
  const features = points.map((_, i) => i).filter((i) => points[i]);
  // Those in colour are drawn last, so that they lie on top.
  features.sort((a, b) => chosen.has(a) - chosen.has(b));
  const state = { canvas, points, features, chosen, view, axes, near: null };
  // Opened with the search box too: what is typed there shows where its features are.
  show(
    el("div.head", {}, el("h1", {}, title)),
    el("p.hint", {}, hint, list.query ? ` In colour: ${count(chosen.size)} features with “${list.query}”.` : ""),
    canvas, label);
  listenTo(state, label);
  const resized = new ResizeObserver(() => (canvas.isConnected ? draw(state) : resized.disconnect()));
  resized.observe(canvas);
}

const margin = { left: 52, bottom: 40, top: 10, right: 14 };

function place({ canvas, points, view, axes }, feature) {
  const left = axes ? margin.left : 8;
  const bottom = axes ? margin.bottom : 8;
  const [width, height] = [canvas.clientWidth - left - margin.right, canvas.clientHeight - bottom - margin.top];
  const [x, y] = points[feature];
  return [left + (x * view.scale + view.x) * width, margin.top + (1 - (y * view.scale + view.y)) * height];
}

function draw(state) {
  const { canvas, features, chosen, near, axes } = state;
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name);
  const plain = chosen.size ? colour("--resting") : colour("--series-1");
  const size = features.length > 5000 ? 1.3 : 2.1;
  for (const feature of features) {
    const [x, y] = place(state, feature);
    const isChosen = chosen.has(feature);
    context.fillStyle = isChosen ? colour("--series-2") : plain;
    context.globalAlpha = isChosen ? 1 : 0.7;
    context.beginPath();
    context.arc(x, y, isChosen ? size + 1.2 : size, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
  if (near !== null) {
    context.strokeStyle = colour("--ink");
    context.beginPath();
    context.arc(...place(state, near), size + 4, 0, 2 * Math.PI);
    context.stroke();
  }
  if (axes) drawAxes(state, context, colour);
}

function drawAxes({ canvas, view, axes }, context, colour) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.fillStyle = colour("--paper"); // over points that are outside of them
  context.fillRect(0, 0, margin.left - 4, height);
  context.fillRect(0, height - margin.bottom + 4, width, margin.bottom);
  context.fillStyle = colour("--muted");
  context.font = "12px system-ui, sans-serif";
  const inner = [width - margin.left - margin.right, height - margin.top - margin.bottom];
  context.textAlign = "center";
  for (const [at, text] of axes.x.ticks) {
    const x = margin.left + (at * view.scale + view.x) * inner[0];
    if (x >= margin.left && x <= width) context.fillText(text, x, height - margin.bottom + 18);
  }
  context.fillText(axes.x.name, margin.left + inner[0] / 2, height - 6);
  context.textAlign = "right";
  for (const [at, text] of axes.y.ticks) {
    const y = margin.top + (1 - (at * view.scale + view.y)) * inner[1];
    if (y >= 0 && y <= height - margin.bottom) context.fillText(text, margin.left - 8, y + 4);
  }
  context.save();
  context.translate(12, margin.top + inner[1] / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(axes.y.name, 0, 0);
  context.restore();
}

function nearest(state, event) {
  let best = null;
  let least = NEAR ** 2;
  for (const feature of state.features) {
    const [x, y] = place(state, feature);
    const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
    if (distance <= least) [best, least] = [feature, distance];
  }
  return best;
}

function listenTo(state, label) {
  const { canvas, view } = state;
  let from = null; // where a drag began
  let moved = false;
  canvas.addEventListener("pointerdown", (event) => {
    from = [event.offsetX, event.offsetY, view.x, view.y];
    moved = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from && event.buttons) {
      const [dx, dy] = [event.offsetX - from[0], event.offsetY - from[1]];
      moved ||= Math.hypot(dx, dy) > 4;
      view.x = from[2] + dx / canvas.clientWidth;
      view.y = from[3] - dy / canvas.clientHeight;
    } else {
      state.near = nearest(state, event);
      if (state.near !== null) label.replaceChildren(linkTo(state.near), " ", about(state.near, 8));
    }
    draw(state);
  });
  canvas.addEventListener("click", (event) => {
    from = null;
    const feature = nearest(state, event);
    if (!moved && feature !== null) location.hash = `#/feature/${feature}`;
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const factor = Math.min(60 / view.scale, Math.max(1 / view.scale, Math.exp(-event.deltaY / 400)));
    const [x, y] = [event.offsetX / canvas.clientWidth, 1 - event.offsetY / canvas.clientHeight];
    Object.assign(view, { scale: view.scale * factor, x: x - (x - view.x) * factor, y: y - (y - view.y) * factor });
    draw(state);
  }, { passive: false });
}

// The two plots ---------------------------------------------------------------------------------

// Where values of a logarithmic axis lie from 0 to 1, and ticks at powers of ten.
function logAxis(values, name, format) {
  const logs = values.map((value) => (value > 0 ? Math.log10(value) : null));
  let [low, high] = [Infinity, -Infinity];
  for (const log of logs) if (log !== null) [low, high] = [Math.min(low, log), Math.max(high, log)];
  const span = Math.max(high - low, 1e-6);
  const ticks = [];
  for (let power = Math.floor(low) - 1; power <= high; power++) {
    for (const factor of span > 2.5 ? [1] : [1, 2, 5]) {
      const at = (power + Math.log10(factor) - low) / span;
      if (at >= 0 && at <= 1) ticks.push([at, format(Number(`${factor}e${power}`))]);
    }
  }
  return { name, ticks, at: logs.map((log) => (log === null ? null : (log - low) / span)) };
}

function showDensity() {
  const { density, max } = index.columns;
  const x = logAxis(density, "density: share of tokens on which it fires", percent);
  const y = logAxis(max, "largest value", num);
  const points = density.map((_, i) => (x.at[i] === null || y.at[i] === null ? null : [x.at[i], y.at[i]]));
  plot(points, { title: "Density and largest value", hint: "Each point is a feature that fires.", axes: { x, y } });
}

async function showMap() {
  if (!data.first.facts.has_map) {
    show(el("p.empty", {}, "These pages were written without the dictionary, so they have no map."));
    return;
  }
  const hint = "Decoder rows by t-SNE: near points have similar rows. How far apart groups lie, and how large they are, says nothing.";
  plot(await load("map"), { title: "Map of decoder rows", hint, axes: null });
}
