// Small charts that must draw fast: sparklines, layer curves, bars. Vega draws the figures (figures.js).

const SPACES = [["h", "circle"], ["z", "square"], ["p", "triangle"]].map(([key, mark]) => ({ key: `one_minus_cos_${key}`, name: key, className: `space-${key}`, mark }));

// Layers of one scope: names of the sublayers, and values by quantity.
function placesOf(layers) {
  return layers.layer.map((layer, at) => `${layer} ${layers.sublayer[at]}`);
}

function valuesOf(layers, key) {
  const kl = key === "kl" && (layers.kl_mean_nats ?? layers.kl_dense_pruned_nats);
  return kl || (layers[`${key}_mean`] ?? layers[key] ?? []);
}

// An SVG path with a gap at each missing value.
function pathOf(values, x, y, isShown = isNumber) {
  const piece = (value, place) => `${isShown(values[place - 1]) ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
  return values.map((value, place) => (isShown(value) ? piece(value, place) : "")).join("");
}

// Square root of the KL by step, on one scale for all rows: rows are comparable, and small values are visible.
const sparkTop = Math.max(1, extremes(index.variants.flatMap(({ spark }) => [...spark.forced, ...spark.own]).filter(isNumber))[1]);

function sparkline(spark) {
  const [width, height] = [104, 26];
  const steps = Math.max(spark.forced.length, spark.own.length);
  if (!steps) return "–";
  const x = (step) => 2 + (step * (width - 4)) / Math.max(1, steps - 1);
  const y = (value) => height - 2 - (height - 4) * Math.sqrt(value / sparkTop);
  const last = (values) => number(values.filter(isNumber).at(-1));
  const said = `KL by step: forced ends at ${last(spark.forced)}, own text at ${last(spark.own)} nats`;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": said },
    svg("title", null, said),
    svg("path", { class: "own", d: pathOf(spark.own, x, y) }),
    svg("path", { class: "forced", d: pathOf(spark.forced, x, y) }),
  );
}

// All marks of a curve as one path, because every click on a token draws its curves again.
const MARKS = { circle: "m-2.3 0a2.3 2.3 0 1 0 4.6 0a2.3 2.3 0 1 0 -4.6 0z", square: "m-2.2 -2.2h4.4v4.4h-4.4z", triangle: "m0 -3l3 5.4h-6z" };

// True for values that a logarithmic axis can show: not for 0, nor below 1e-10, where 1 − cos is only rounding.
function hasPlace(value) {
  return isNumber(value) && value > 1e-10;
}

function textAt(x, y, content, anchor = "middle", className = "tick") {
  return svg("text", { class: className, x, y, "text-anchor": anchor }, content);
}

// Lines and labels of a logarithmic axis, every so many powers of ten.
function logGrid([low, high], every, y, left, right) {
  const power = (at) => (low >= -3 && high <= 3 ? String(Number(`1e${at}`)) : `10${[...String(at)].map((sign) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign] ?? "⁻").join("")}`);
  const all = Array.from({ length: high - low + 1 }, (_, place) => low + place).filter((at) => (at - low) % every === 0);
  return all.map((at) => [svg("path", { class: "grid", d: `M${left} ${y(10 ** at)}H${right}` }), textAt(left - 6, y(10 ** at) + 4, power(at), "end")]);
}

const QUANTITIES = [["h", "1 − cos, hidden states h", 1], ["z", "1 − cos, logits z", 1], ["p", "1 − cos, probabilities p", 1], ["kl", "KL(dense ‖ pruned), nats", 30]];
const LOWEST = 1e-3;

// A picture per quantity: one panel per measured trajectory, one curve per variant. A narrow screen shows two per row.
function generationCurves(curves) {
  const [wide, high, x0, right, top, gap] = [236, 96, 56, 8, 26, 22];
  const trajectories = [["forced", "forced"], ["own", "own text"], ["fork", "fork"]].filter(([key]) => curves.some((one) => one[key].kl));
  const steps = extremes(curves.flatMap((one) => one.step))[1] || 1;
  const picture = ([key, title, most]) => svg("svg", { viewBox: `0 0 ${x0 + wide + right} ${top + trajectories.length * (high + gap)}`, "aria-hidden": "true" }, nodes(trajectories.map(([trajectory, name], row) => {
    const y0 = top + row * (high + gap);
    const x = (step) => x0 + (step * wide) / steps;
    const y = (value) => y0 + high * (1 - Math.log10(Math.max(value, LOWEST) / LOWEST) / Math.log10(most / LOWEST));
    return [
      logGrid([Math.log10(LOWEST), Math.floor(Math.log10(most))], 1, y, x0, x0 + wide),
      row === 0 && textAt(x0, 14, title, "start", "series"),
      textAt(x0 + wide - 3, y0 + high - 5, name, "end"),
      row === trajectories.length - 1 && textAt(x0 + wide / 2, y0 + high + 16, `generated token, 0 to ${steps}`),
      curves.map((one, place) => svg("g", { class: `color-${place}` }, svg("path", { class: place % 2 ? "curve dashed" : "curve", d: pathOf(one[trajectory][key] ?? [], (at) => x(one.step[at]), y) }))),
    ];
  })));
  const said = curves.map((one) => `${variantsById.get(one.id).recipe}: KL ends ${trajectories.map(([key, name]) => `${name} at ${number(one[key].kl?.filter(isNumber).at(-1))}`).join(", ")} nats`).join("; ");
  return el("div", { class: "quantities", role: "img", "aria-label": `h, z, p and KL along the generation. ${said}` }, QUANTITIES.map(picture));
}

/* Curves over layers on a logarithmic axis, with a readout under the pointer or by the arrow keys.
   series: [{name, className, mark, dashed, values}]; places: ["0 attn", …]; changed: which places the recipe changed. */
function layerCurves({ title, places, changed, series, markers = [] }) {
  const shown = series.filter((one) => one.values.some(hasPlace));
  if (!shown.length) return null;
  // The ends of the axis, in whole powers of ten.
  const [low, high] = extremes(shown.flatMap((one) => one.values).filter(hasPlace)).map(Math.log10);
  const ends = [Math.floor(low), Math.max(Math.floor(low) + 1, Math.ceil(high))];
  const [width, height, left, right, top, bottom] = [560, 216, 46, 58, 12, 40];
  const x = (place) => left + ((width - left - right) * (place + 0.5)) / places.length;
  const y = (value) => top + (height - top - bottom) * (1 - (Math.log10(value) - ends[0]) / (ends[1] - ends[0]));
  const readout = el("span", { class: "readout", "aria-live": "polite" });
  const grid = logGrid(ends, Math.ceil((ends[1] - ends[0]) / 5), y, left, width - right);
  let last = null;
  places.forEach((place, at) => {
    const layer = Number.parseInt(place, 10);
    if (changed?.[at] && !changed.every(Boolean)) grid.push(svg("rect", { class: "changed", x: x(at - 0.5), y: top, width: (width - left - right) / places.length, height: height - top - bottom }));
    if (layer !== last && layer % Math.max(1, Math.ceil(Number.parseInt(places.at(-1), 10) / 8)) === 0) grid.push(textAt(x(at), height - bottom + 16, String(layer)));
    last = layer;
  });
  // Names are at the ends of the curves, moved apart if they would overlap.
  const labels = shown.map((one) => {
    const end = one.values.findLastIndex(hasPlace);
    return { one, end, at: y(one.values[end]) };
  });
  labels.sort((a, b) => a.at - b.at);
  labels.slice(1).forEach((label, rank) => (label.at = Math.max(label.at, labels[rank].at + 14)));
  const excess = labels.length ? Math.max(0, labels.at(-1).at - (height - bottom)) : 0;
  const curves = labels.map(({ one, end, at }) =>
    svg(
      "g",
      { class: one.className },
      svg("path", { class: one.dashed ? "curve dashed" : "curve", d: pathOf(one.values, x, y, hasPlace) }),
      one.mark && places.length <= 80 ? svg("path", { class: "marks", d: one.values.map((value, place) => (hasPlace(value) ? `M${x(place).toFixed(1)} ${y(value).toFixed(1)}${MARKS[one.mark]}` : "")).join("") }) : null,
      textAt(x(end) + 8, at - excess + 4, one.name, "start", "series"),
    ),
  );
  const flags = markers.filter((one) => one.place >= 0).map((one) => [svg("path", { class: "flag", d: `M${x(one.place)} ${top}V${height - bottom}` }), one.place > places.length / 2 ? textAt(x(one.place) - 4, top - 2, one.text, "end") : textAt(x(one.place) + 4, top - 2, one.text, "start")]);
  const hair = svg("path", { class: "hair", d: "" });
  // For screen readers: the ends and the peak of each curve.
  const said = shown.map((one) => {
    const values = one.values.filter(isNumber);
    const [, peak] = extremes(values);
    return `${one.name} from ${number(values[0])} to ${number(values.at(-1))}, highest ${number(peak)} at ${places[one.values.indexOf(peak)]}`;
  });
  const drawing = svg(
    "svg",
    { class: "curves", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img", "aria-label": `${title}: ${said.join("; ")}` },
    grid,
    flags,
    curves,
    hair,
    textAt((left + width - right) / 2, height - 3, "layer (attention, then MLP)"),
  );
  let here = null;
  const point = (at) => {
    here = at;
    hair.setAttribute("d", at === null ? "" : `M${x(at)} ${top}V${height - bottom}`);
    readout.textContent = at === null ? "" : `${places[at]}${changed?.[at] ? " (changed)" : ""}: ${shown.map((one) => `${one.name} ${number(one.values[at])}`).join(" · ")}`;
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = Math.floor((((event.clientX - box.left) * width) / box.width - left) / ((width - left - right) / places.length));
    if (at >= 0 && at < places.length) point(at);
  });
  drawing.addEventListener("keydown", (event) => {
    const end = places.length - 1;
    const to = { ArrowRight: Math.min(end, (here ?? -1) + 1), ArrowLeft: Math.max(0, (here ?? end + 1) - 1), Home: 0, End: end }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    point(to);
  });
  drawing.addEventListener("blur", () => point(null));
  drawing.addEventListener("pointerleave", () => document.activeElement !== drawing && point(null));
  return el("figure", { class: "small" }, el("figcaption", null, title, readout), drawing);
}

// Two charts: 1 − cos of h, z and p, and KL.
function layerPanels(layers, pick = (values) => values, markers = []) {
  const panel = (title, series) => layerCurves({ title, places: placesOf(layers), changed: layers.is_changed, markers, series: series.map((one) => ({ ...one, values: pick(valuesOf(layers, one.key)) })) });
  return el(
    "div",
    { class: "panels" },
    panel("1 − cos(dense, pruned)", SPACES),
    panel("KL(dense ‖ pruned), nats", [{ key: "kl", name: "KL", className: "kl", mark: "circle" }, { key: "kl_noise_p95_nats", name: "noise", className: "noise", dashed: true }]),
  );
}

// Rows of [label, dense, pruned] with a bar for each side; probabilities from 0 to 1.
function bars(rows, isMarked = () => false) {
  const line = (side, value) =>
    el("span", { class: `bar ${side}` }, el("span", { class: "fill", style: { width: `${100 * Math.min(1, Math.max(0, value ?? 0))}%` } }), el("span", { class: "value" }, `${percent(value)} %`));
  return el(
    "ol",
    { class: "bars" },
    rows.map(([label, dense, pruned], rank) => el("li", { class: isMarked(label, rank) ? "marked" : null }, name(label, { class: "token" }), line("dense", dense), line("pruned", pruned))),
  );
}
