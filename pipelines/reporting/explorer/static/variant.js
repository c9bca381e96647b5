// The page of one variant: numbers, texts compared with the dense ones, layers, facts.

async function variantPage(id) {
  const variant = known(id);
  const own = await load(`variant/${variant.place}`);
  const others = index.variants.filter((other) => other.model === variant.model && other.id !== id && !other.is_dense);
  return [
    el("h1", { tabindex: -1 }, name(variant.recipe), el("span", { class: "hint" }, " of ", name(variant.model))),
    variant.is_dense
      ? el("p", { class: "lead" }, "The dense model: all other variants are compared with it.")
      : el("p", { class: "lead" }, verdict(variant), " ", variant.verdict_reason, " ", sqlLink("verdicts", "the verdict", variant.where)),
    others.length > 0 && !variant.is_dense && el("p", null, el("label", null, "Compare with ", picker(others, null, (other) => go("compare", id, other)))),
    el("section", null, headingOver("Numbers", index.columns, variant.where), el("div", { class: "numbers" }, index.columns.filter((column) => isNumber(variant.numbers[column.name]) || intervalOf(column, variant)).map((column) => el("div", { title: column.doc }, el("span", null, headingOf(column)), el("b", null, cellOf(column, variant)), intervalOf(column, variant) && el("small", { class: "hint", title: "95 % interval" }, " ", intervalOf(column, variant)))))),
    own.prompts.length > 0 && el("section", null, el("div", { class: "headed" }, el("h2", null, "Texts"), sqlMenu([["the texts", "texts"], ["KL of the texts", "text_means"], ["where texts differ", "parts"], ["the texts by kind of prompt", "kinds"]], variant.where)), kindsOf(variant), textsOf(variant, own)),
    Object.keys(own.layers).length > 0 && el("section", null, heading(2, "Layers", "layer_means", variant.where), el("p", { class: "hint" }, `Means over tokens of ${layeredOf(variant.model)}, teacher forced, lens ${index.lenses[variant.model]}. The logarithmic axis cannot show exact zeros.${Object.values(own.layers).every((layers) => layers.is_changed.every(Boolean)) ? "" : " Shaded: sublayers that the recipe changed."}`), inOrder(own.layers).map(([scope, layers]) => [el("h3", null, scope), el("p", { class: "hint" }, SCOPES[scope]), layerPanels(layers, (values) => values)])),
    own.carriers.length > 0 && el("section", null, heading(2, "Share of the damage by sublayer", "carriers", variant.where), carriersTable(own.carriers)),
    own.tables.map((one) => el("section", null, heading(2, one.title, one.sql, variant.where), plainTable({ label: one.title, columns: one.columns.map(words), rows: one.rows, filter: one.rows.length > 12, limit: 12 }))),
    el("section", null, heading(2, "Facts", "facts", variant.where), facts(own.facts)),
  ];
}

const SCOPES = {
  propagated: "The whole pruned model runs on the dense tokens; each sublayer reads the changed output of the earlier ones.",
  isolated: "One sublayer of the dense model is replaced by the variant’s; measured at the model’s output.",
  local: "One sublayer of the dense model is replaced by the variant’s; measured directly after this sublayer.",
};

function inOrder(layers) {
  return Object.keys(SCOPES).filter((scope) => layers[scope]).map((scope) => [scope, layers[scope]]);
}

function known(id) {
  const variant = variantsById.get(id);
  if (!variant) throw new Error(`This study has no variant “${id}”.`);
  return variant;
}

// A select of variants; `chosen` is null if no variant is selected yet.
function picker(variants, chosen, pick, label = "variant") {
  const select = el("select", { "aria-label": label, onchange: () => select.value && pick(select.value) }, chosen === null && el("option", { value: "" }, "…"), variants.map((variant) => el("option", { value: variant.id }, index.models.length > 1 ? `${variant.model} @ ${variant.recipe}` : variant.recipe)));
  if (chosen !== null) select.value = chosen;
  return select;
}

function promptCard(variant, summary) {
  const prompt = index.prompts[summary.prompt];
  const same = !summary.text_dense && !summary.text_pruned;
  const step = summary.first_flip_step ?? 0;
  const said = [
    same ? "same text" : isNumber(summary.first_flip_step) && `first flip at step ${summary.first_flip_step}`,
    isNumber(summary.collapse_step) && `completes a loop at step ${summary.collapse_step}`,
    summary.is_correct !== null && `answer ${summary.answer ?? "none"}, ${summary.is_correct ? "right" : "wrong"} (dense ${summary.is_correct_dense ? "right" : "wrong"})`,
    isNumber(summary.kl_forced_mean) && `mean KL forced ${number(summary.kl_forced_mean)}, own text ${number(summary.kl_own_mean)} nats`,
    summary.parts_at && `most likely token first differs after ${summary.parts_at}${summary.parts_for_good_at && summary.parts_for_good_at !== summary.parts_at ? `, permanently after ${summary.parts_for_good_at}` : ""}`,
  ].filter(Boolean);
  const has = variant.traces.includes(summary.prompt);
  return el(
    "article",
    { class: "prompt" },
    el("h3", null, has ? el("a", { href: route("tokens", variant.id, prompt.prompt_id, step) }, name(prompt.name), " token by token") : name(prompt.name)),
    el("p", { class: "hint" }, said.join(" · ")),
    el("details", null, el("summary", null, "Prompt"), el("blockquote", { dir: "auto" }, prompt.text)),
    variant.is_dense
      ? el("p", { class: "text", dir: "auto" }, summary.text_same, summary.text_dense)
      : el("div", { class: "pair" }, textOf("dense", summary.text_same, summary.text_dense, false), textOf(variant.recipe, summary.text_same, summary.text_pruned, true)),
  );
}

function textOf(title, same, rest, isMarked) {
  return el("div", { class: "text" }, el("h4", null, name(title)), el("p", { dir: "auto" }, same, isMarked && rest ? el("mark", null, rest) : rest));
}

// Meters are relative to the largest share.
function carriersTable(carriers) {
  const top = Math.max(1e-9, ...carriers.map((one) => one.share ?? 0));
  return dataTable({
    label: "changed sublayers",
    rows: carriers,
    limit: 10,
    filter: carriers.length > 12 ? (one) => one.place : undefined,
    columns: [
      { id: "place", heading: "sublayer", value: (one) => one.place, cell: (one) => one.place },
      { id: "share", heading: "share of the damage, %", align: "number", doc: "of the sum over the variant’s changed sublayers", value: (one) => one.share, cell: (one) => [el("span", { class: "meter", "aria-hidden": "true" }, styled(el("span"), { width: `${(100 * (one.share ?? 0)) / top}%` })), percent(one.share)] },
      { id: "kl", heading: "KL alone, nats", align: "number", doc: "mean KL caused by this sublayer alone", value: (one) => one.kl, cell: (one) => number(one.kl) },
      { id: "scope", heading: "scope", value: (one) => one.scope, cell: (one) => one.scope },
      { id: "parted", heading: "prompts that differ here", align: "number", doc: "prompts whose most likely token differs permanently after this sublayer, at the first flip", value: (one) => one.parted, cell: (one) => number(one.parted) },
    ],
  });
}
