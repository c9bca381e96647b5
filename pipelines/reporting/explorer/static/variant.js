// The page of one variant: numbers, texts compared with the dense ones, layers, facts.

async function variantPage(id) {
  const variant = known(id);
  const own = await load("variant", id);
  const others = prunedVariants.filter((other) => other.model === variant.model && other.id !== id);
  return [
    heading(1, [name(variant.recipe), el("span", { class: "hint" }, " of ", name(variant.model))]),
    variant.is_dense
      ? el("p", { class: "lead" }, "The dense model: all other variants are compared with it.")
      : el("p", { class: "lead" }, verdict(variant), " ", variant.verdict_reason, " ", sqlLink("verdicts", "the verdict", variant.where)),
    others.length > 0 && !variant.is_dense && el("p", null, el("label", null, "Compare with ", picker(others, null, (other) => go("compare", id, other)))),
    el("section", null, headingOver("Numbers", index.columns, variant.where), tiles(index.columns.filter((column) => isNumber(variant.numbers[column.name]) || intervalOf(column, variant)).map((column) => [headingOf(column), cellOf(column, variant), column.doc, intervalOf(column, variant) && el("small", { class: "hint", title: "95 % interval" }, " ", intervalOf(column, variant))]))),
    own.prompts.length > 0 && el("section", null, el("div", { class: "headed" }, el("h2", null, "Texts"), sqlMenu([["the texts", "texts"], ["KL of the texts", "text_means"], ["where texts differ", "parts"], ["the texts by kind of prompt", "kinds"]], variant.where)), textsOf(variant, own)),
    Object.keys(own.layers).length > 0 && el("section", null, heading(2, "Layers", "layer_means", variant.where), el("p", { class: "hint" }, `Means over tokens of ${layeredOf(variant.model)}, teacher forced, lens ${index.lenses[variant.model]}. The logarithmic axis cannot show exact zeros.${Object.values(own.layers).every((layers) => layers.is_changed.every(Boolean)) ? "" : " Shaded: sublayers that the recipe changed."}`), inOrder(own.layers).map(([scope, layers]) => [el("h3", null, scope), el("p", { class: "hint" }, SCOPES[scope]), layerPanels(layers)])),
    own.tables.map((one) => el("section", null, heading(2, one.title, one.sql, variant.where), plainTable({ label: one.title, columns: one.columns.map(words), rows: one.rows, filter: one.rows.length > 12, limit: 12 }))),
    el("section", null, heading(2, "Facts", "facts", variant.where), facts(own.facts)),
  ];
}

const SCOPES = {
  propagated: "The whole pruned model runs on the dense tokens; each sublayer reads the changed output of the earlier ones.",
  isolated: "One sublayer of the dense model is replaced by the variant’s; measured at the model’s output.",
  restored: "One changed sublayer of the pruned model is dense again; measured at the model’s output.",
  local: "One sublayer of the dense model is replaced by the variant’s; measured directly after this sublayer.",
};

function inOrder(layers) {
  return Object.keys(SCOPES).filter((scope) => layers[scope]).map((scope) => [scope, layers[scope]]);
}

// A select of variants; `chosen` is null if no variant is selected yet.
function picker(variants, chosen, pick, label = "variant") {
  const select = el("select", { "aria-label": label, onchange: () => select.value && pick(select.value) }, chosen === null && el("option", { value: "" }, "…"), variants.map((variant) => el("option", { value: variant.id }, titleOf(variant))));
  if (chosen !== null) select.value = chosen;
  return select;
}

// The sublayer from which on the most likely token at the first flip differs, and the one from which on it stays so.
function divergence(one) {
  const [first, last] = [[one.layer, one.sublayer], [one.from_layer, one.from_sublayer]].map((place) => place.join(" "));
  return isNumber(one.layer) && `first differs after ${first}${isNumber(one.from_layer) && last !== first ? `, permanently after ${last}` : ""}`;
}

function promptCard(variant, one) {
  const prompt = promptOf(variant.model, one.prompt_id);
  const said = [
    !one.text_dense && !one.text_pruned ? "same text" : isNumber(one.first_flip_step) && `first flip at step ${one.first_flip_step}`,
    isNumber(one.collapse_step) && `completes a loop at step ${one.collapse_step}`,
    one.is_correct !== null && `answer ${one.answer ?? "none"}, ${one.is_correct ? "right" : "wrong"} (dense ${one.is_correct_dense ? "right" : "wrong"})`,
    isNumber(one.kl_forced_mean_nats) && `mean KL forced ${number(one.kl_forced_mean_nats)}, own text ${number(one.kl_own_mean_nats)} nats`,
    divergence(one) && `most likely token ${divergence(one)}`,
  ].filter(Boolean);
  return el(
    "article",
    { class: "prompt" },
    el("h3", null, variant.traces.includes(one.prompt_id) ? tokensLink(variant, prompt, one.first_flip_step, name(prompt.name), " token by token") : name(prompt.name)),
    el("p", { class: "hint" }, said.join(" · ")),
    el("details", null, el("summary", null, "Prompt"), el("blockquote", { dir: "auto" }, prompt.prompt_text)),
    el("div", { class: variant.is_dense ? null : "pair" }, textOf(variant, one, "dense"), !variant.is_dense && textOf(variant, one)),
  );
}

function textOf(variant, one, side = variant.is_dense ? "dense" : "pruned") {
  const rest = one[`text_${side}`];
  return el("div", { class: "text" }, el("h4", null, side === "dense" ? "dense" : name(variant.recipe)), el("p", { dir: "auto" }, one.text_same, side !== "dense" && rest ? el("mark", null, rest) : rest));
}
