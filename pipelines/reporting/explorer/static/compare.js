// Comparison of two variants: numbers, paired statistics, layers. The page of a prompt has the texts of both.

async function comparePage(first, second) {
  if (prunedVariants.length < 2) return [heading(1, "Compare"), el("p", null, "This study has fewer than two pruned variants.")];
  const one = known(first ?? prunedVariants[0].id);
  const other = known(second ?? (prunedVariants.find((variant) => variant.model === one.model && variant.id !== one.id) ?? prunedVariants[1]).id);
  // In the order of the overview, as in the statistics of a pair.
  const [a, b] = index.variants.indexOf(one) > index.variants.indexOf(other) ? [other, one] : [one, other];
  const [ownA, ownB, statistics] = await Promise.all([load("variant", a.id), load("variant", b.id), paired(a, b)]);
  const rows = index.columns.filter(({ name: key }) => isNumber(a.numbers[key]) || isNumber(b.numbers[key]));
  return [
    heading(1, "Compare"),
    el("p", { class: "pickers" }, el("label", null, el("span", { class: "key side-a" }, "A"), picker(index.variants, a.id, (id) => go("compare", id, b.id), "variant A")), el("label", null, el("span", { class: "key side-b" }, "B"), picker(index.variants, b.id, (id) => go("compare", a.id, id), "variant B"))),
    el("p", null, "A: ", variantLink(a), " ", verdict(a), "; B: ", variantLink(b), " ", verdict(b)),
    el("section", null, headingOver("Numbers", rows), dataTable({
      label: "numbers of both",
      rows,
      isCards: true,
      columns: [
        { id: "heading", heading: "quantity", cell: (column) => el("span", { title: column.doc }, headingOf(column)) },
        { id: "a", heading: "A", align: "number", value: (column) => a.numbers[column.name], cell: (column) => cellOf(column, a) },
        { id: "b", heading: "B", align: "number", value: (column) => b.numbers[column.name], cell: (column) => cellOf(column, b) },
        { id: "difference", heading: "B − A", align: "number", value: (column) => gap(a, b, column), cell: (column) => `${gap(a, b, column) > 0 ? "+" : ""}${cell(column, gap(a, b, column))}` },
      ],
    }), a.model === b.model && el("p", { class: "hint" }, "For the uncertainty of these differences, see the paired statistics below.")),
    statistics,
    folded(["Layers", sqlLink("layer_means", "layers of A", a.where), sqlLink("layer_means", "layers of B", b.where)], a.model === b.model && el("p", { class: "hint" }, `Means over tokens of ${layeredOf(a.model)}.`), inOrder(ownA.layers).filter(([scope]) => ownB.layers[scope]).map(([scope, layers]) => [el("h3", null, scope), el("p", { class: "hint" }, SCOPES[scope]), el("div", { class: "panels" }, overlaid(layers, ownB.layers[scope]))])),
  ];
}

function gap(a, b, column) {
  const [left, right] = [a, b].map(({ numbers }) => numbers[column.name]);
  return isNumber(left) && isNumber(right) ? right - left : null;
}

function overlaid(a, b) {
  // The sublayers of both variants in layer order: the two recipes may have changed different ones.
  const places = [...new Set([...placesOf(a), ...placesOf(b)])].sort((one, two) => Number.parseInt(one, 10) - Number.parseInt(two, 10) || one.localeCompare(two));
  return [...SPACES.map((space) => [space.key, `1 − cos, ${space.name}`]), ["kl", "KL(dense ‖ pruned), nats"]].map(([key, title]) => {
    const along = (layers) => places.map((place) => valuesOf(layers, key)[placesOf(layers).indexOf(place)] ?? null);
    return layerCurves({ title, places, series: [{ name: "A", className: "side-a", mark: "circle", values: along(a) }, { name: "B", className: "side-b", mark: "square", dashed: true, values: along(b) }] });
  });
}

// Paired statistics, if available: a file has those of similar variants, a server compares any two variants.
async function paired(a, b) {
  const command = el("code", null, `prunescope compare ${a.id} ${b.id}`);
  const section = (...parts) => el("section", { class: "paired" }, heading(2, "Paired statistics"), parts);
  if (a.model !== b.model || a.id === b.id) return section(el("p", { class: "hint" }, "Choose two different variants of the same model."));
  return load("pair", a.id, b.id).then((found) => section(
    el("p", { class: "hint" }, "Differences are B − A over the units on which both were measured, with 95 % intervals; pairing cancels the difficulty that both share. McNemar’s exact test uses the samples that only one variant answers correctly; Holm’s correction covers all tests of this pair. All statistics: ", command, "."),
    found.tables.map(pairedTable),
    found.missing.map((reason) => el("p", { class: "hint" }, `Not compared: ${reason}.`)),
  ), (error) => section(el("p", { class: "hint" }, error.message, " ", command, " prints these statistics. The figure ", link("of right answers", "figures", "flip_matrix"), " has those of every two variants.")));
}

// Four digits, so that all columns fit the window.
function pairedTable({ title, columns, rows, sql }) {
  const [statistic, difference, low, high] = ["statistic", "difference", "difference_low", "difference_high"].map((column) => columns.indexOf(column));
  const isKnown = (row) => row[low] > 0 || row[high] < 0;
  return [
    el("h3", null, title, sqlLink(sql, title)),
    plainTable({ label: title, columns: columns.map((column) => PAIRED_HEADINGS[column] ?? column), rows, limit: 14, isCards: true, show: (value) => number(value, 4), say: (text, place) => (place === statistic ? words(text) : text), isMarked: (row, place) => place === difference && isKnown(row) }),
    rows.some(isKnown) && el("p", { class: "hint" }, "◆ The interval of this row excludes 0; it is not corrected for the number of rows."),
  ];
}

const PAIRED_HEADINGS = {
  measured_on: "measured on", a: "A", b: "B", difference: "B − A", difference_se: "± s.e.", difference_low: "from", difference_high: "to", noise_p95: "KL of rounding (p95), nats",
  only_a_right: "only A right", only_b_right: "only B right", mcnemar_p: "McNemar p", holm_p: "Holm p", clusters: "units",
};
