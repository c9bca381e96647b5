// The first page: answers, variants, the paper's claims, findings, figures, provenance.

function overview() {
  const { answers, claims, claims_by_model: shared, findings, searches, figures } = index;
  return [
    heading(1, name(index.title)),
    answers.length > 0 && el("section", { class: "answers", "aria-label": "Answers" }, answers.map(answerCard)),
    el("p", { class: "lead" }, `Each variant is a pruned model, compared with the dense model token by token: hidden states h, logits z and probabilities p. Divergence is KL(dense ‖ pruned) in nats. “Forced”: both models read the dense model’s text. “Own text”: both read the variant’s.`),
    index.notes.map((note) => el("p", { class: "hint" }, note)),
    leadPicture(),
    el("section", null, headingOver("Variants", [...index.columns, { sql: "sparks", heading: "KL by step" }]), variantsTable(), el("p", { class: "hint under" }, index.verdict_basis), el("details", null, el("summary", null, "How verdicts are decided"), el("p", { class: "rule" }, index.verdict_rule))),
    example(),
    claims.length > 0 && folded("The paper’s claims in this study", shared.length > 0 && [el("h3", null, "By model"), claimsByModel(shared), el("h3", null, "In numbers")], claimsTable(claims)),
    findings.length > 0 && el("section", null, heading(2, "Findings"), [...Map.groupBy(findings, ({ theme }) => theme)].map(([theme, list], place) => el("details", { open: place === 0 }, el("summary", null, theme, el("span", { class: "hint" }, ` ${list.length}`)), el("ul", { class: "findings" }, list.map((one) => el("li", null, index.models.length > 1 && el("b", null, name(one.model), ": "), one.text, " ", sqlLink(one.sql, one.text))))))),
    searches.length > 0 && el("section", { class: "search" }, heading(2, "Search"), searches.map(({ model, results, tables }) => [
      index.models.length > 1 && el("h3", null, name(model)),
      el("ul", { class: "findings" }, results.map((one) => el("li", null, one.text, " ", sqlLink(one.sql, one.text)))),
      tables.map((table) => el("details", null, el("summary", null, table.title, " ", sqlLink(table.sql, table.title)), plainTable({ label: table.title, columns: table.columns.map(words), rows: table.rows, limit: 14, isCards: true, show: (value) => number(value, 3) }))),
    ]), figures.filter(({ name: key }) => ["search", "allocation"].includes(key)).map((figure) => [el("h3", null, link(figure.title, "figures", figure.name)), lazyCharts(figure.name)])),
    folded(["Prompts", sqlLink("prompts", "Prompts")], index.prompts.length > MANY && [el("h3", null, "By kind", sqlLink("kinds", "the texts by kind of prompt")), kindsTable(index.variants), el("h3", null, "What breaks first")], promptsTable()),
    figures.length > 0 && el("section", null, heading(2, "Figures"), allFigures()),
    el("section", null, heading(2, "Provenance"), el("details", null, el("summary", null, "What you need to reproduce the study"), facts(index.facts), el("p", null, link("Licences of the software in this page", "licences")))),
  ];
}

// How the shift grows from h over z and p to KL along the generation, if the study wrote texts.
function leadPicture() {
  const { curves } = index;
  if (!curves.length) return null;
  const { model } = variantsById.get(curves[0].id);
  const of = prunedVariants.filter((variant) => variant.model === model).length;
  const names = curves.map(({ id }, place) => el("a", { class: `color-${place}`, href: route("variant", id) }, place % 2 ? "╍ " : "━ ", name(titleOf(variantsById.get(id)))));
  return el("figure", { class: "opening" }, generationCurves(curves), el("p", { class: "legend" }, names), el("figcaption", { class: "hint" }, `Medians over prompts at each generated token. forced: both models read the dense text. own text: both read the variant’s. fork: the dense model alone, its text against the one that it writes after the variant’s first other token. Logarithmic axes from 0.001 on; ${of > curves.length ? `${curves.length} of ${of} variants, from the nearest to the furthest; ` : ""}`, link("the whole figure", "figures", "generation"), "."));
}

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

// True for a column with the same value in all pruned variants; the table leaves it out to save space.
function isConstant(column) {
  const values = prunedVariants.map((variant) => variant.numbers[column.name]);
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
  const same = constant.map((column) => `${headingOf(column)} ${cellOf(column, prunedVariants[0])}`);
  // The dense model first, then the safest variants.
  const ofVerdict = (variant) => (variant.is_dense ? -1 : Object.keys(index.marks).indexOf(variant.verdict ?? "too little evidence"));
  const table = dataTable({
    label: "variants",
    isCards: true,
    rows: index.variants,
    filter: (variant) => `${variant.model} ${variant.recipe} ${variant.method} ${variant.verdict ?? ""}`,
    rowClass: (variant) => (variant.is_dense ? "reference" : null),
    sortBy: "kl_teacher_forced_median_nats",
    columns: [
      { id: "variant", doc: "link to the page of the variant", value: (variant) => variant.id, cell: variantLink },
      { id: "verdict", doc: index.verdict_rule, align: null, value: ofVerdict, cell: (variant) => [verdict(variant), variant.words.length > 0 && el("small", { class: "ends" }, ["same tokens", "right answers", "alive"].map((word, place) => `${word} ${signOf(variant.words[place])}`).join(" · "))] },
      {
        id: "spark",
        heading: ["KL by step, nats: ", el("span", { class: "key forced" }, "forced"), " ", el("span", { class: "key own" }, "own text")],
        doc: "mean over prompts, on the same scale in all rows; sorts by the mean of the forced curve",
        align: null,
        value: ({ spark }) => mean(spark.forced) ?? mean(spark.own),
        cell: ({ spark }) => sparkline(spark),
      },
      ...columns.filter((column) => !constant.includes(column)).map((column) => ({ id: column.name, heading: headingOf(column), doc: column.doc, value: (variant) => variant.numbers[column.name], cell: (variant) => [cellOf(column, variant), intervalOf(column, variant) && el("small", { class: "ends", title: "95 % interval" }, intervalOf(column, variant))] })),
    ],
  });
  return [table, same.length > 0 && el("p", { class: "hint under" }, `Equal for all pruned variants: ${same.join(" · ")}.`)];
}

function mean(values) {
  const known = values.filter(isNumber);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

const claimColumn = { id: "says", heading: "claim", align: "wide", cell: (claim) => [claim.says, " ", sqlLink(claim.sql, claim.says)] };
const measureColumn = { id: "measure", align: "wide", cell: (claim) => (claim.measure === "all" ? "–" : name(claim.measure)) };

function claimsTable(rows) {
  return dataTable({
    label: "claims",
    isCards: true,
    rows,
    limit: 8,
    columns: [
      claimColumn,
      index.models.length > 1 && { id: "model" },
      { id: "verdict", cell: (claim) => mark(claim.verdict) },
      measureColumn,
      { id: "amount" },
      { id: "amount_low", heading: "95 % interval", cell: (claim) => (isNumber(claim.amount_low) ? `${number(claim.amount_low)} to ${number(claim.amount_high)}` : "–") },
      { id: "null_amount", heading: "under rounding", doc: "the same number if nothing is pruned and only rounding differs" },
      { id: "n", doc: "independent units", cell: (claim) => [number(claim.n), " ", el("span", { class: "hint" }, claim.units)] },
    ],
  });
}

// For several models: on which of them each claim holds.
function claimsByModel(rows) {
  const models = Object.entries({ models_hold: "holds on", models_fail: "does not hold on", models_open: "open on" });
  const columns = models.map(([id, heading]) => ({ id, heading, align: "wide", cell: (claim) => claim[id] || "–" }));
  return dataTable({ label: "claims by model", isCards: true, rows, limit: 8, columns: [claimColumn, measureColumn, { id: "verdict", align: "wide" }, ...columns] });
}
