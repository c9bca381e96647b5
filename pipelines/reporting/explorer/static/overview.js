// The first page: answers, variants, the paper's claims, findings, figures, provenance.

function overview() {
  const { answers, claims, claims_by_model: shared, findings, searches, figures } = index;
  return [
    el("h1", { tabindex: -1 }, name(index.title)),
    answers.length > 0 && el("section", { class: "answers", "aria-label": "Answers" }, answers.map(answerCard)),
    el("p", { class: "lead" }, `Each variant is a pruned model, compared with the dense model token by token: hidden states h, logits z and probabilities p. Divergence is KL(dense ‖ pruned) in nats. “Forced”: both models read the dense model’s text. “Own text”: both read the variant’s.`),
    index.notes.map((note) => el("p", { class: "hint" }, note)),
    leadPicture(),
    el("section", null, headingOver("Variants", [...index.columns, { sql: "sparks", heading: "KL by step" }]), variantsTable(), el("p", { class: "hint under" }, index.verdict_basis), el("details", null, el("summary", null, "How verdicts are decided"), el("p", { class: "rule" }, index.verdict_rule))),
    example(),
    claims.length > 0 && folded("The paper’s claims in this study", shared.length > 0 && [el("h3", null, "By model"), sharedClaimsTable(shared), el("h3", null, "In numbers")], claimsTable(claims)),
    findings.length > 0 && el("section", null, heading(2, "Findings"), grouped(findings, "theme").map(([theme, list], place) => el("details", { open: place === 0 }, el("summary", null, theme, el("span", { class: "hint" }, ` ${list.length}`)), el("ul", { class: "findings" }, list.map((one) => el("li", null, index.models.length > 1 && el("b", null, name(one.model), ": "), one.text, " ", sqlLink(one.sql, one.text))))))),
    searches.length > 0 && el("section", { class: "search" }, heading(2, "Search"), searches.map(searchOf), figures.filter(({ name: key }) => ["search", "allocation"].includes(key)).map((figure) => [el("h3", null, link(figure.title, "figures", figure.name)), lazyCharts([figure.name])])),
    folded(["Prompts", sqlLink("prompts", "Prompts")], byKind(), promptsTable()),
    figures.length > 0 && el("section", null, heading(2, "Figures"), allFigures()),
    el("section", null, heading(2, "Provenance"), el("details", null, el("summary", null, "What you need to reproduce the study"), facts(index.facts), el("p", null, link("Licences of the software in this page", "licences")))),
  ];
}

// How the shift grows from h over z and p to KL along the generation, if the study wrote texts.
function leadPicture() {
  const { curves } = index;
  if (!curves.length) return null;
  const { model } = variantsById.get(curves[0].id);
  const of = index.variants.filter((variant) => variant.model === model && !variant.is_dense).length;
  const names = curves.map(({ id }, place) => el("a", { class: `color-${place}`, href: route("variant", id) }, place % 2 ? "╍ " : "━ ", variantName(variantsById.get(id))));
  return el("figure", { class: "opening" }, generationCurves(curves), el("p", { class: "legend" }, names), el("figcaption", { class: "hint" }, `Medians over prompts at each generated token. forced: both models read the dense text. own text: both read the variant’s. fork: the dense model alone, its text against the one that it writes after the variant’s first other token. Logarithmic axes from 0.001 on; ${of > curves.length ? `${curves.length} of ${of} variants, from the nearest to the furthest; ` : ""}`, link("the whole figure", "figures", "generation"), "."));
}

// The results of one model's searches. The figures below cover all models.
function searchOf({ model, results, tables }) {
  return [
    index.models.length > 1 && el("h3", null, name(model)),
    el("ul", { class: "findings" }, results.map((one) => el("li", null, one.text, " ", sqlLink(one.sql, one.text)))),
    tables.map((table) => el("details", null, el("summary", null, table.title, " ", sqlLink(table.sql, table.title)), plainTable({ label: table.title, columns: table.columns.map((column) => SEARCH_HEADINGS[column] ?? column), rows: table.rows, limit: 14, isCards: true, show: (value) => number(value, 3) }))),
  ];
}

const SEARCH_HEADINGS = { remove: "share to remove", share_of_weights: "share of all weights", removed_share: "share removed", lowest_share: "lowest", in_layer: "in layer", highest_share: "highest", and_in_layer: "in layer", effects_sum_nats: "their effects alone, summed, nats", sublayer_names: "which" };

function answerCard(answer) {
  return el(
    "article",
    null,
    el("h2", null, answer.question, index.models.length > 1 && el("span", { class: "hint" }, " ", name(answer.model))),
    el("p", { class: "short" }, answer.short, " ", sqlLink(answer.sql[0], answer.question)),
    answer.text && el("details", null, el("summary", null, "More"), el("p", null, answer.text, " ", answer.sql.slice(1).map((source) => [sqlLink(source, answer.question), " "]))),
    answer.links.length > 0 && el("p", { class: "links" }, answer.links.map((one) => [el("a", { href: one.href }, name(one.text)), " "])),
  );
}

function grouped(list, key) {
  const groups = new Map();
  for (const one of list) groups.set(one[key], [...(groups.get(one[key]) ?? []), one]);
  return [...groups];
}

// Order of verdicts: the dense model first, then the safest variants; ties are sorted by KL on the variant's own tokens.
const VERDICT_ORDER = [...SHAPES.keys()];

// True for a column with the same value in all pruned variants; the table leaves it out to save space.
function isConstant(column) {
  const values = index.variants.filter((variant) => !variant.is_dense).map((variant) => variant.numbers[column.name]);
  return values.length > 1 && values.every((value) => value === values[0]);
}

function variantsTable() {
  const place = el("div", null, variantsWith(index.columns.filter((column) => !column.is_detail)));
  if (!index.columns.some((column) => column.is_detail && !isConstant(column))) return place;
  const button = el("button", { type: "button", class: "more", onclick: () => {
    refill(place, variantsWith(index.columns));
    button.remove();
    // On a narrow screen a column has no heading, so focus its first value.
    const added = index.columns.find((column) => column.is_detail && !isConstant(column));
    land([...place.querySelectorAll(`[data-column="${added.name}"]`)].find((one) => one.getClientRects().length));
  } }, "All columns");
  return [place, button];
}

function variantsWith(columns) {
  const constant = columns.filter(isConstant);
  const same = constant.map((column) => `${headingOf(column)} ${cellOf(column, index.variants.find((variant) => !variant.is_dense))}`);
  const ofVerdict = (variant) => (variant.is_dense ? -1 : VERDICT_ORDER.indexOf(variant.verdict ?? "too little evidence"));
  const table = dataTable({
    label: "variants",
    isCards: true,
    rows: index.variants,
    filter: (variant) => `${variant.model} ${variant.recipe} ${variant.method} ${variant.verdict ?? ""}`,
    rowClass: (variant) => (variant.is_dense ? "reference" : null),
    sortBy: "kl_teacher_forced_median_nats",
    columns: [
      { id: "variant", heading: "variant", doc: "link to the page of the variant", value: (variant) => variant.id, cell: (variant) => el("a", { href: route("variant", variant.id) }, variantName(variant)) },
      { id: "verdict", heading: "verdict", doc: index.verdict_rule, value: ofVerdict, cell: (variant) => [verdict(variant), variant.words.length > 0 && el("small", { class: "ends" }, threeWords(variant))] },
      {
        id: "spark",
        heading: ["KL by step, nats: ", el("span", { class: "key forced" }, "forced"), " ", el("span", { class: "key own" }, "own text")],
        doc: "mean over prompts, on the same scale in all rows; sorts by the mean of the forced curve",
        value: ({ spark }) => mean(spark.forced) ?? mean(spark.own),
        cell: ({ spark }) => sparkline(spark),
      },
      ...columns.filter((column) => !constant.includes(column)).map((column) => ({ id: column.name, heading: headingOf(column), doc: column.doc, align: "number", value: (variant) => variant.numbers[column.name], cell: (variant) => bounded(column, variant) })),
    ],
  });
  return [table, same.length > 0 && el("p", { class: "hint under" }, `Equal for all pruned variants: ${same.join(" · ")}.`)];
}

function mean(values) {
  const known = values.filter(isNumber);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function claimsTable(claims) {
  const shape = { holds: "●", "does not hold": "✕" };
  return dataTable({
    label: "claims",
    isCards: true,
    rows: claims,
    limit: 8,
    columns: [
      { id: "says", heading: "claim", align: "wide", value: (claim) => claim.says, cell: (claim) => [claim.says, " ", sqlLink(claim.sql, claim.says)] },
      ...(index.models.length > 1 ? [{ id: "model", heading: "model", value: (claim) => claim.model, cell: (claim) => name(claim.model) }] : []),
      { id: "verdict", heading: "verdict", value: (claim) => claim.verdict, cell: (claim) => el("span", { class: `verdict ${claim.verdict.replaceAll(" ", "-")}` }, el("span", { class: "shape", "aria-hidden": "true" }, shape[claim.verdict] ?? "○"), claim.verdict) },
      { id: "measure", heading: "measure", align: "wide", value: (claim) => claim.measure, cell: (claim) => claim.measure ?? "–" },
      { id: "amount", heading: "amount", align: "number", value: (claim) => claim.amount, cell: (claim) => number(claim.amount) },
      { id: "interval", heading: "95 % interval", align: "number", value: (claim) => claim.low, cell: (claim) => (isNumber(claim.low) ? `${number(claim.low)} to ${number(claim.high)}` : "–") },
      { id: "null", heading: "under rounding", align: "number", doc: "the same number where nothing is pruned and only rounding differs", value: (claim) => claim.null, cell: (claim) => number(claim.null) },
      { id: "n", heading: "n", align: "number", doc: "independent units", value: (claim) => claim.n, cell: (claim) => [number(claim.n), " ", el("span", { class: "hint" }, claim.units)] },
    ],
  });
}

// For several models: on which of them each claim holds.
function sharedClaimsTable(claims) {
  const models = (id, heading) => ({ id, heading, align: "wide", value: (claim) => claim[id], cell: (claim) => claim[id] || "–" });
  return dataTable({
    label: "claims by model",
    isCards: true,
    rows: claims,
    limit: 8,
    columns: [
      { id: "says", heading: "claim", align: "wide", value: (claim) => claim.says, cell: (claim) => [claim.says, " ", sqlLink(claim.sql, claim.says)] },
      { id: "measure", heading: "measure", align: "wide", value: (claim) => claim.measure, cell: (claim) => claim.measure ?? "–" },
      { id: "verdict", heading: "verdict", align: "wide", value: (claim) => claim.verdict, cell: (claim) => claim.verdict },
      models("hold", "holds on"),
      models("fail", "does not hold on"),
      models("open", "open on"),
    ],
  });
}

