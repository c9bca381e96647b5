// One answer token by token: both texts, and the probabilities and layers of both models at the selected token.

// The largest KL of a trajectory up to the end of the answer: the scale of its colours.
const topKl = (steps) => Math.max(1e-3, extremes(steps.kl_dense_pruned_nats.filter(isNumber))[1]);
const HEATS = {
  kl: { title: "KL", ends: (steps) => ["0", `${number(topKl(steps))} nats`], heat: (steps, at) => Math.sqrt(steps.kl_dense_pruned_nats[at] / topKl(steps)) },
  entropy: { title: "entropy", ends: () => ["0", "6 nats"], heat: (steps, at, side) => steps[`entropy_${side}_nats`][at] / 6 },
  agreement: { title: "agreement", ends: () => ["same token", "other token"], heat: (steps, at) => (steps.is_same_token[at] ? 0 : 0.8) },
  margin: { title: "margin", ends: () => ["sure", "undecided"], heat: (steps, at, side) => 1 / (1 + Math.max(0, steps[`margin_${side}`][at] ?? Infinity)) },
};
const TRAJECTORIES = { forced: "the dense text", own: "the variant’s text" };
let heatOf = "kl";

async function tokensPage(id, promptId, step, wantedTrajectory) {
  const variant = known(id);
  const prompt = knownPrompt(variant.model, promptId);
  const trace = await load("trace", id, promptId);
  const trajectories = Object.keys(TRAJECTORIES).filter((key) => trace[key]);
  if (!trajectories.length) throw new Error("No token of this answer was measured.");
  const where = { ...variant.where, prompt_id: promptId };
  const view = { variant, prompt, trace, where, trajectory: trajectories.includes(wantedTrajectory) ? wantedTrajectory : trajectories[0], step: Number.parseInt(step, 10) || 0 };
  const texts = el("div", { class: "sides" });
  const detail = el("section", { class: "detail", "aria-label": "Chosen token", "aria-live": "off" });
  view.show = (next, focus, side) => choose(view, texts, detail, next, focus, side);
  view.map = trace.layers.propagated && layerMap(trace.layers.propagated, where, new Map(trace.forced?.step.map((one, at) => [one, trace.forced.token_text_dense[at]])), (next) => view.show(next, true));
  const redraw = () => {
    texts.replaceChildren(...sides(view));
    view.show(view.step, false);
  };
  const switches = [
    choice("Both models read", trajectories.map((key) => [key, TRAJECTORIES[key]]), view.trajectory, (key) => {
      view.trajectory = key;
      redraw();
    }),
    choice("Colour", Object.entries(HEATS).map(([key, { title }]) => [key, title]), heatOf, (key) => {
      heatOf = key;
      redraw();
    }),
  ];
  redraw();
  const siblings = prunedVariants.filter((other) => other.model === variant.model && other.traces.includes(promptId));
  const prompts = variant.traces.map((each) => promptOf(variant.model, each));
  const promptSelect = el("select", { "aria-label": "prompt", onchange: () => go("tokens", id, promptSelect.value, 0) }, prompts.map((one) => el("option", { value: one.prompt_id }, one.name)));
  promptSelect.value = promptId;
  return [
    heading(1, [promptLink(prompt), el("span", { class: "hint" }, " token by token: ", variantLink(variant))]),
    el("p", { class: "pickers" }, el("label", null, "Variant ", picker(siblings.length ? siblings : [variant], id, (other) => go("tokens", other, promptId, view.step))), el("label", null, "Prompt ", promptSelect)),
    el("details", { class: "asked" }, el("summary", null, "Prompt"), el("blockquote", { dir: "auto" }, prompt.prompt_text)),
    el("p", null, outcome(view), sqlLink("texts", "the texts", where), divergence(trace) && [" ", sqlLink("parts", "where they differ", where)]),
    el("div", { class: "tools" }, switches, sqlLink("steps", "the tokens", where)),
    texts,
    view.map && view.map.figure,
    detail,
    optionsOf(trace, where),
  ];
}

// The events of both texts, with links to their steps; a loop of the pruned text links to that text.
function outcome({ variant, prompt, trace }) {
  const at = (step, ...path) => link(`step ${step}`, "tokens", variant.id, prompt.prompt_id, step, ...path);
  const graded = (right) => (right === null ? "" : right ? " (right)" : " (wrong)");
  return [
    trace.text_dense === trace.text_pruned ? "Both texts are the same." : isNumber(trace.first_flip_step) && ["The texts first differ at ", at(trace.first_flip_step), "."],
    isNumber(trace.collapse_step) && ["The pruned text completes a loop at ", at(trace.collapse_step, "own"), "."],
    isNumber(trace.collapse_step_dense) && ["The dense text completes a loop at ", at(trace.collapse_step_dense), "."],
    (trace.answer || trace.answer_dense) && `Answers: dense ${trace.answer_dense ?? "none"}${graded(trace.is_correct_dense)}, pruned ${trace.answer ?? "none"}${graded(trace.is_correct)}${prompt.gold ? `; right answer ${prompt.gold}` : ""}.`,
    divergence(trace) && `At the first flip the most likely token ${divergence(trace)}.`,
  ].filter(Boolean).map((sentence) => [sentence, " "]);
}

function choice(label, options, chosen, pick) {
  const buttons = options.map(([key, title]) =>
    el("button", { type: "button", "aria-pressed": String(key === chosen), "data-key": key, onclick: () => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.key === key)));
      pick(key);
    } }, title),
  );
  return el("span", { class: "choice", role: "group", "aria-label": label }, el("span", { class: "hint" }, label), buttons);
}

function sides(view) {
  const { title, ends: endsOf } = HEATS[heatOf];
  const ends = endsOf(view.trace[view.trajectory]);
  const hint = (isShown, text) => isShown && el("span", { class: "hint" }, text);
  const isForced = view.trajectory === "forced";
  return [
    el("div", { class: "side" }, el("h2", null, "dense", hint(!isForced, " its most likely token on the variant’s text")), stream(view, "dense")),
    el("div", { class: "side" }, el("h2", null, name(view.variant.recipe), hint(isForced, " its most likely token on the dense text")), stream(view, "pruned")),
    el("p", { class: "legend hint" }, `${title}: ${ends[0]} `, el("span", { class: "ramp", "aria-hidden": "true" }), ` ${ends[1]}`, heatOf === "agreement" ? "" : " · underlined: differs from the dense token"),
  ];
}

// Events by step, shown as words in the text, because colour alone is not accessible.
function flagsOf(view, side) {
  const { trace } = view;
  const flags = new Map();
  const flag = (step, text) => isNumber(step) && flags.set(step, [...(flags.get(step) ?? []), text]);
  flag(trace.first_flip_step, "first flip");
  const isForced = view.trajectory === "forced";
  flag(isForced ? trace.answer_end_step_dense : trace.answer_end_step, "answer ends");
  if (isForced === (side === "dense")) flag(isForced ? trace.collapse_step_dense : trace.collapse_step, "loop");
  return flags;
}

function stream(view, side) {
  const steps = view.trace[view.trajectory];
  const flags = flagsOf(view, side);
  const { heat } = HEATS[heatOf];
  const list = el("div", { class: "stream", role: "listbox", "aria-label": `tokens of the ${side} text`, "aria-orientation": "horizontal", dir: "ltr" });
  steps[`token_text_${side}`].forEach((token, at) => {
    if (token === null) return;
    const step = steps.step[at];
    const hot = Math.min(1, Math.max(0, heat(steps, at, side) || 0));
    const piece = el("span", { class: `tok${steps.is_same_token[at] ? "" : " other"}`, role: "option", tabindex: -1, "data-at": at, "aria-selected": "false", "aria-label": [`${step}: ${token}`, ...(steps.is_same_token[at] ? [] : ["differs"]), ...(flags.get(step) ?? [])].join(", "), style: { "--heat": hot.toFixed(3) } }, name(token));
    for (const text of flags.get(step) ?? []) list.append(el("span", { class: "flag", "aria-hidden": "true" }, text));
    // Lines break before words, not inside them.
    if (token.startsWith("␣")) list.append(el("wbr"));
    list.append(piece);
    if (token.endsWith("↵")) list.append(el("br"));
  });
  // One listener per text, so that clicks in long texts respond at once.
  list.addEventListener("click", (event) => {
    const piece = event.target.closest(".tok");
    if (piece) view.show(steps.step[piece.dataset.at], true, side);
  });
  list.addEventListener("keydown", (event) => walk(event, view, side, list));
  return list;
}

function walk(event, view, side, list) {
  const pieces = [...list.querySelectorAll(".tok")];
  const here = pieces.indexOf(event.target.closest(".tok"));
  if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const line = (way) => {
    const box = pieces[here].getBoundingClientRect();
    const far = pieces.map((piece, at) => ({ at, box: piece.getBoundingClientRect() })).filter((one) => way * (one.box.top - box.top) > box.height / 2);
    const top = far.length && far.reduce((best, one) => (way * (one.box.top - best) < 0 ? one.box.top : best), far[0].box.top);
    const row = far.filter((one) => Math.abs(one.box.top - top) < 2);
    return row.length ? row.reduce((best, one) => (Math.abs(one.box.left - box.left) < Math.abs(best.box.left - box.left) ? one : best)).at : here;
  };
  const moves = { ArrowRight: () => here + 1, ArrowLeft: () => here - 1, ArrowDown: () => line(1), ArrowUp: () => line(-1), Home: () => 0, End: () => pieces.length - 1, Enter: () => here, " ": () => here };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  const next = pieces[Math.min(pieces.length - 1, Math.max(0, move()))];
  view.show(view.trace[view.trajectory].step[next.dataset.at], true, side);
}

// Mark the step in both texts, show its details below, and update the address without a new history entry.
function choose(view, texts, detail, step, focus, side = "dense") {
  const steps = view.trace[view.trajectory];
  const at = Math.max(0, steps.step.indexOf(step));
  view.step = steps.step[at] ?? 0;
  // Read all positions before any change, so that the browser computes the layout once.
  const sides = [...texts.querySelectorAll(".stream")].map((list) => {
    const piece = list.querySelector(`[data-at="${at}"]`) ?? [...list.querySelectorAll(".tok")].at(-1);
    if (!piece) return { list };
    const [box, frame] = [piece.getBoundingClientRect(), list.getBoundingClientRect()];
    const isSeen = box.top >= frame.top && box.bottom <= frame.bottom;
    return { list, piece, isChosen: piece.dataset.at === String(at), top: isSeen ? null : list.scrollTop + box.top - frame.top - frame.height / 3 };
  });
  for (const piece of texts.querySelectorAll('.tok[tabindex="0"]')) {
    piece.setAttribute("aria-selected", "false");
    piece.tabIndex = -1;
  }
  for (const { piece, isChosen } of sides) {
    if (piece) piece.tabIndex = 0;
    if (isChosen) piece.setAttribute("aria-selected", "true");
  }
  const hash = route("tokens", view.variant.id, view.prompt.prompt_id, view.step) + (view.trajectory === "forced" ? "" : `/${view.trajectory}`);
  if (focus && location.hash !== hash) replaceRoute(hash);
  view.map?.follow(view.step);
  refill(detail, chosenToken(view, steps, at));
  for (const { list, isChosen, top } of sides) if (isChosen && top !== null) list.scrollTop = top;
  const chosen = sides[side === "dense" ? 0 : 1];
  if (focus && chosen?.isChosen) chosen.piece.focus({ preventScroll: true });
}

function chosenToken(view, steps, at) {
  const { trace, trajectory } = view;
  const step = steps.step[at];
  const quantities = { kl_dense_pruned_nats: "KL, nats", entropy_dense_nats: "entropy dense, nats", entropy_pruned_nats: "entropy pruned, nats", margin_dense: "margin dense, logits", margin_pruned: "margin pruned, logits", rank_of_dense_top1: "rank of the dense token", one_minus_cos_h: "1 − cos h", one_minus_cos_z: "1 − cos z", one_minus_cos_p: "1 − cos p" };
  const top = trace.top[trajectory]?.[at];
  return [
    el("h2", null, `Step ${step}: `, name(steps.token_text_dense[at], { class: "token" }), steps.is_same_token[at] ? el("span", { class: "hint" }, " on both sides") : [" → ", name(steps.token_text_pruned[at], { class: "token" })]),
    tiles(Object.entries(quantities).map(([key, title]) => [title, number(steps[key][at])])),
    top && el("p", { class: "hint" }, el("span", { class: "key dense" }, "dense"), " and ", el("span", { class: "key pruned" }, "pruned"), " probability of each model’s most likely tokens"),
    top && el("div", { class: "pair" }, ["dense", "pruned"].map((side) => el("div", null, el("h3", null, `Most likely, ${side}`, sqlLink("top", `the most likely tokens, ${side}`, view.where)), bars(top[side])))),
    layersAt(view, step),
  ];
}

function layersAt(view, step) {
  const { trace, trajectory } = view;
  const measured = inOrder(trace.layers).map(([scope, layers]) => {
    const column = layers.steps.indexOf(step);
    if (column < 0) return null;
    const agrees = layers.is_top1_same?.map((row) => row[column]);
    // The sublayer from which on the pruned model's most likely token differs.
    const parted = agrees && scope === "propagated" && agrees.at(-1) === false ? agrees.findLastIndex((same) => same !== false) + 1 : -1;
    return el("div", null, el("h3", null, `Layers, ${scope}`, sqlLink("layers", "the layers", view.where)), el("p", { class: "hint" }, SCOPES[scope] ?? ""), layerPanels(layers, (matrix) => matrix.map((row) => row[column]), [{ place: parted, text: "differs from here on" }]));
  });
  if (!view.prompt.has_layers) {
    const layered = view.variant.traces.map((each) => promptOf(view.variant.model, each)).filter((prompt) => prompt.has_layers);
    return el("p", { class: "hint" }, "This prompt was measured at the output only: it has no layers.", layered.length > 0 && [" With layers: ", layered.slice(0, 3).map((prompt, at) => [at > 0 && ", ", tokensLink(view.variant, prompt, 0, name(prompt.name))]), "."]);
  }
  if (!measured.some(Boolean)) return el("p", { class: "hint" }, "The layers of this token were not measured.");
  const isElsewhere = trajectory === "own" && isNumber(trace.first_flip_step) && step > trace.first_flip_step;
  return [isElsewhere && el("p", { class: "hint" }, "Layers are measured on the dense text: after the first flip they do not belong to this one."), measured];
}

function optionsOf(trace, where) {
  const { options } = trace;
  if (!options) return null;
  const [gold] = options.gold;
  const rows = (...names) => options.option.map((option, at) => [option, ...names.map((key) => options[key][at])]);
  return el(
    "section",
    null,
    heading(2, "Option subspace", "options", where),
    el("p", { class: "hint" }, `Probabilities over the options only, at the first generated token.${gold ? ` Right: ${gold}.` : ""} Over the whole vocabulary, the options have a total probability of ${percent(options.mass_dense[0])} % (dense) and ${percent(options.mass_pruned[0])} % (pruned). KL: ${number(options.kl_options_dense_pruned_nats[0])} nats over the options, ${number(options.kl_dense_pruned_nats[0])} nats over the vocabulary; the chosen option ${options.is_argmax_same[0] ? "stays the same" : "changes"}.`),
    bars(rows("p_options_dense", "p_options_pruned"), (option) => option === gold),
    plainTable({ label: "options in the whole vocabulary", columns: ["option", "p dense", "p pruned", "rank dense", "rank pruned"], rows: rows("p_full_dense", "p_full_pruned", "rank_dense", "rank_pruned") }),
  );
}
