// Comparison of two variants: numbers, paired statistics, layers, texts.

async function comparePage(first, second) {
  const pruned = index.variants.filter((variant) => !variant.is_dense);
  if (pruned.length < 2) return [el("h1", { tabindex: -1 }, "Compare"), el("p", null, "This study has fewer than two pruned variants.")];
  const a = first === undefined ? known(pruned[0].id) : known(first);
  const b = second === undefined ? known((pruned.find((variant) => variant.model === a.model && variant.id !== a.id) ?? pruned[1]).id) : known(second);
  const [ownA, ownB, statistics] = await Promise.all([load(`variant/${a.place}`), load(`variant/${b.place}`), paired(a, b)]);
  const head = (variant) => el("a", { href: route("variant", variant.id) }, variantName(variant));
  const rows = index.columns.filter(({ name: key }) => isNumber(a.numbers[key]) || isNumber(b.numbers[key]));
  return [
    el("h1", { tabindex: -1 }, "Compare"),
    el("p", { class: "pickers" }, el("label", null, el("span", { class: "key side-a" }, "A"), picker(index.variants, a.id, (id) => go("compare", id, b.id), "variant A")), el("button", { type: "button", onclick: () => go("compare", b.id, a.id), "aria-label": "swap A and B" }, "⇄"), el("label", null, el("span", { class: "key side-b" }, "B"), picker(index.variants, b.id, (id) => go("compare", a.id, id), "variant B"))),
    el("p", null, "A: ", head(a), " ", verdict(a), "; B: ", head(b), " ", verdict(b)),
    el("section", null, headingOver("Numbers", rows), dataTable({
      label: "numbers of both",
      rows,
      isCards: true,
      columns: [
        { id: "heading", heading: "quantity", doc: "", value: (column) => column.heading, cell: (column) => el("span", { title: column.doc }, headingOf(column)) },
        { id: "a", heading: "A", align: "number", value: (column) => a.numbers[column.name], cell: (column) => cellOf(column, a) },
        { id: "b", heading: "B", align: "number", value: (column) => b.numbers[column.name], cell: (column) => cellOf(column, b) },
        { id: "difference", heading: "B − A", align: "number", value: (column) => gap(a, b, column), cell: (column) => difference(a, b, column) },
      ],
    }), a.model === b.model && el("p", { class: "hint" }, "For the uncertainty of these differences, see the paired statistics below.")),
    statistics,
    folded(["Layers", sqlLink("layer_means", "layers of A", a.where), sqlLink("layer_means", "layers of B", b.where)], a.model === b.model && el("p", { class: "hint" }, `Means over tokens of ${layeredOf(a.model)}.`), inOrder(ownA.layers).filter(([scope]) => ownB.layers[scope]).map(([scope, layers]) => overlaid(scope, layers, ownB.layers[scope]))),
    a.model === b.model && folded(["Texts", sqlLink("texts", "texts of A", a.where), sqlLink("texts", "texts of B", b.where)], el("p", { class: "hint" }, "Marked: the text from the first token that differs from the dense one."), someOf(ownA.prompts, 6, (summary) => {
      const other = ownB.prompts.find((one) => one.prompt === summary.prompt);
      const prompt = index.prompts[summary.prompt];
      const linkOf = (variant, one) => (variant.traces.includes(summary.prompt) ? el("a", { href: route("tokens", variant.id, prompt.prompt_id, one.first_flip_step ?? 0) }, variantName(variant)) : variantName(variant));
      const side = (variant, one) => el("div", { class: "text" }, el("h4", null, linkOf(variant, one), el("span", { class: "hint" }, isNumber(one.first_flip_step) ? ` first flip at step ${one.first_flip_step}` : " same text", isNumber(one.collapse_step) ? `, completes a loop at step ${one.collapse_step}` : "")), el("p", { dir: "auto" }, one.text_same, el("mark", null, one.text_pruned)));
      return other && el("article", { class: "prompt" }, el("h3", null, name(prompt.name)), el("div", { class: "pair" }, side(a, summary), side(b, other)));
    }, "prompts")),
  ];
}

function gap(a, b, column) {
  const [left, right] = [a.numbers[column.name], b.numbers[column.name]];
  return isNumber(left) && isNumber(right) ? right - left : null;
}

function difference(a, b, column) {
  const value = gap(a, b, column);
  if (value === null) return "–";
  return `${value > 0 ? "+" : ""}${cell(column, value)}`;
}

function overlaid(scope, a, b) {
  const drawings = [["h", "1 − cos, h"], ["z", "1 − cos, z"], ["p", "1 − cos, p"], ["kl", "KL(dense ‖ pruned), nats"]].map(([key, title]) => {
    // The sublayers of both variants in layer order: the two recipes may have changed different ones.
    const places = [...new Set([...a.places, ...b.places])].sort((one, two) => Number.parseInt(one, 10) - Number.parseInt(two, 10) || one.localeCompare(two));
    const along = (layers) => places.map((place) => layers[key][layers.places.indexOf(place)] ?? null);
    return layerCurves({ title, places, series: [{ name: "A", className: "side-a", mark: "circle", values: along(a) }, { name: "B", className: "side-b", mark: "square", dashed: true, values: along(b) }] });
  });
  return el("div", null, el("h3", null, scope), el("p", { class: "hint" }, SCOPES[scope] ?? ""), el("div", { class: "panels" }, drawings));
}

// Paired statistics, if available: a file has those of similar variants, a server compares any two variants.
async function paired(a, b) {
  const command = el("code", null, `prunescope compare ${a.id} ${b.id}`);
  const section = (...parts) => el("section", { class: "paired" }, heading(2, "Paired statistics"), parts);
  if (a.model !== b.model || a.id === b.id) return section(el("p", { class: "hint" }, "Choose two different variants of the same model."));
  const isTurned = a.place > b.place;
  const [n, m] = isTurned ? [b.place, a.place] : [a.place, b.place];
  let found;
  try {
    found = await load(`pair/${n}/${m}`);
  } catch (error) {
    return section(el("p", { class: "hint" }, error.message, " ", command, " prints these statistics."), await counted(a, b, isTurned));
  }
  return section(
    el("p", { class: "hint" }, "Differences are B − A over the units on which both were measured, with 95 % intervals; pairing cancels the difficulty that both share. McNemar’s exact test uses the samples that only one variant answers correctly; Holm’s correction covers all tests of this pair. All statistics: ", command, "."),
    found.tables.map((table) => pairedTable(table, isTurned)),
    found.missing.map((reason) => el("p", { class: "hint" }, `Not compared: ${reason}.`)),
  );
}

// Four digits, so that all columns fit the window.
function pairedTable(table, isTurned) {
  const { columns, rows } = isTurned ? turned(table) : table;
  const [difference, low, high] = ["difference", "difference_low", "difference_high"].map((column) => columns.indexOf(column));
  const statistic = columns.indexOf("statistic");
  const isKnown = (row) => row[low] > 0 || row[high] < 0;
  const markOf = (row, place) => (place === difference && isKnown(row) ? better(row[statistic], row[difference]) : null);
  return [
    el("h3", null, table.title, sqlLink(table.sql, table.title)),
    plainTable({ label: table.title, columns: columns.map((column) => PAIRED_HEADINGS[column] ?? column), rows, limit: 14, isCards: true, show: (value) => number(value, 4), say: (text, place) => (place === statistic ? words(text) : text), markOf }),
    rows.some(isKnown) && el("p", { class: "hint" }, "◆ The interval of this row excludes 0; it is not corrected for the number of rows."),
  ];
}

// Which side a known difference favours, by the statistic's direction; empty if the statistic has none.
function better(statistic, difference) {
  const isLower = /ppl|perplexity|bits_per|^kl|rms/.test(statistic ?? "");
  const isHigher = /accuracy|acc|agreement|likelihood|margin|exact_match|pass_at|nearer|right|ndcg|recall/.test(statistic ?? "");
  if (isLower === isHigher) return "";
  return difference > 0 === isHigher ? "B better" : "A better";
}

// For a pair without its own statistics: the counts that all pairs have, or null if both variants share no task.
async function counted(a, b, isTurned) {
  const { columns, pairs } = await load("turns").catch(() => ({ pairs: {} }));
  const rows = pairs[isTurned ? `${b.place}/${a.place}` : `${a.place}/${b.place}`];
  if (!rows) return null;
  const where = { model: a.where.model, recipe: a.where.recipe, other_recipe: b.where.recipe };
  return [pairedTable({ title: "Right answers of both variants, over all tasks with the same metric", columns, rows, sql: { key: "turns", where } }, isTurned), el("p", { class: "hint" }, "Holm p is corrected for all pairs of this model’s variants.")];
}

const PAIRED_HEADINGS = {
  measured_on: "measured on", a: "A", b: "B", difference: "B − A", difference_se: "± s.e.", difference_low: "from", difference_high: "to", noise_p95: "KL of rounding (p95), nats",
  only_a_right: "only A right", only_b_right: "only B right", mcnemar_p: "McNemar p", holm_p: "Holm p", clusters: "units",
};

const SIGNED = new Set(["difference", "difference_low", "difference_high"]);

// The document has the earlier variant as A; this swaps the sides.
function turned({ columns, rows }) {
  const other = { a: "b", b: "a", only_a_right: "only_b_right", only_b_right: "only_a_right", difference_low: "difference_high", difference_high: "difference_low" };
  return {
    columns,
    rows: rows.map((row) => columns.map((column) => {
      const value = row[columns.indexOf(other[column] ?? column)];
      return SIGNED.has(column) && isNumber(value) ? -value : value;
    })),
  };
}
