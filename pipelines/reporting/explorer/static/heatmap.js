// KL of every sublayer at every step as one image; a click selects the step.

// More tokens below the image would be too narrow to read.
const MOST_LABELS = 32;

// One pixel per cell, enlarged by the style sheet; the first layer is at the bottom, next to the model's input.
function layerMap(layers, where, tokens, choose) {
  const [places, kl] = [placesOf(layers), layers.kl_dense_pruned_nats];
  const [count, steps] = [places.length, layers.steps.length];
  const [, peak] = extremes(kl.flat().filter(isNumber));
  const peakPlace = kl.findIndex((row) => row.includes(peak));
  const said = peakPlace < 0 ? "not measured" : `highest ${number(peak)} nats after ${places[peakPlace]} at step ${layers.steps[kl[peakPlace].indexOf(peak)]}`;
  const canvas = el("canvas", { width: steps, height: count, role: "img", "aria-label": `KL by layer and step: ${said}` });
  const colour = getComputedStyle(root).getPropertyValue("--heat-color").trim().split(" ").map(Number);
  const context = canvas.getContext("2d");
  const image = context.createImageData(steps, count);
  const top = Math.max(1e-3, peak);
  kl.forEach((row, place) => row.forEach((value, step) => image.data.set([...colour, Math.round(255 * Math.sqrt(Math.max(0, value ?? 0) / top))], 4 * ((count - 1 - place) * steps + step))));
  context.putImageData(image, 0, 0);
  const cursor = el("span", { class: "cursor", "aria-hidden": "true" });
  const readout = el("span", { class: "readout" });
  const cellAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
    return [inside((event.clientX - box.left) / box.width, steps), count - 1 - inside((event.clientY - box.top) / box.height, count)];
  };
  canvas.addEventListener("click", (event) => choose(layers.steps[cellAt(event)[0]]));
  canvas.addEventListener("pointermove", (event) => {
    const [step, place] = cellAt(event);
    readout.textContent = `step ${layers.steps[step]}, ${places[place]}: ${number(kl[place][step])} nats`;
  });
  canvas.addEventListener("pointerleave", () => (readout.textContent = ""));
  const figure = el(
    "figure",
    { class: "small map" },
    el("figcaption", null, "KL by layer (vertical) and step (horizontal), propagated, on the dense text; click to select a step", sqlLink("layers", "the layers", where), readout),
    el("p", { class: "hint" }, "0 ", el("span", { class: "ramp", "aria-hidden": "true" }), ` ${number(top)} nats`),
    el("div", { class: "frame" }, el("span", { class: "hint" }, `layer ${layers.layer.at(-1)}`), el("span", { class: "hint low" }, `layer ${layers.layer[0]}`), el("div", { class: "cells" }, canvas, cursor)),
    steps <= MOST_LABELS && el("div", { class: "labels token", "aria-hidden": "true", style: { "--steps": steps } }, layers.steps.map((step) => name(tokens.get(step) ?? "", { title: tokens.get(step) }))),
  );
  const follow = (step) => {
    const at = layers.steps.indexOf(step);
    cursor.hidden = at < 0;
    fill(cursor, { style: { left: `${(100 * at) / steps}%`, width: `${100 / steps}%` } }, []);
  };
  return { figure, follow };
}
