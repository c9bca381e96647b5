// Two variants against each other: numbers, texts, layers, answers.

async function comparePage(first, second) {
  const pruned = index.variants.filter((variant) => !variant.is_dense);
  if (pruned.length < 2) return [el("h1", { tabindex: -1 }, "Compare"), el("p", null, "This study has fewer than two pruned variants.")];
  const a = first === undefined ? pruned[0] : known(first);
  const b = second === undefined ? (pruned.find((variant) => variant.model === a.model && variant !== a) ?? pruned[1]) : known(second);
  const [ownA, ownB] = await Promise.all([load(`variant/${variantsById.get(a.id).place}`), load(`variant/${variantsById.get(b.id).place}`)]);
  const head = (variant) => el("a", { href: route("variant", variant.id) }, variantName(variant));
  const rows = index.columns.filter(({ name: key }) => isNumber(a.numbers[key]) || isNumber(b.numbers[key]));
  return [
    el("h1", { tabindex: -1 }, "Compare"),
    el("p", { class: "pickers" }, el("span", { class: "key side-a" }, "A"), picker(index.variants, a.id, (id) => go("compare", id, b.id), "variant A"), el("button", { type: "button", onclick: () => go("compare", b.id, a.id), "aria-label": "swap A and B" }, "⇄"), el("span", { class: "key side-b" }, "B"), picker(index.variants, b.id, (id) => go("compare", a.id, id), "variant B")),
    el("p", null, "A: ", head(a), " ", verdict(a), "; B: ", head(b), " ", verdict(b)),
    el("section", null, headingOver("Numbers", rows), dataTable({
      label: "numbers of both",
      rows,
      columns: [
        { id: "heading", heading: "quantity", doc: "", value: (column) => column.heading, cell: (column) => el("span", { title: column.doc }, headingOf(column)) },
        { id: "a", heading: "A", align: "number", value: (column) => a.numbers[column.name], cell: (column) => cell(column, a.numbers[column.name]) },
        { id: "b", heading: "B", align: "number", value: (column) => b.numbers[column.name], cell: (column) => cell(column, b.numbers[column.name]) },
        { id: "difference", heading: "B − A", align: "number", value: (column) => gap(a, b, column), cell: (column) => difference(a, b, column) },
      ],
    }), el("p", { class: "hint" }, "▲ B is better, ▼ A is better, where the quantity has a better end. Paired errors and tests: ", el("code", null, `prunescope compare ${a.recipe} ${b.recipe}`), ".")),
    el("section", null, heading(2, "Layers", ownA.layers_sql), inOrder(ownA.layers).filter(([scope]) => ownB.layers[scope]).map(([scope, layers]) => overlaid(scope, layers, ownB.layers[scope]))),
    answersTable(ownA, ownB),
    a.model === b.model && el("section", null, heading(2, "Texts", ownA.prompts_sql), el("p", { class: "hint" }, "Marked: what follows where the text leaves the dense one."), someOf(ownA.prompts, 6, (summary) => {
      const other = ownB.prompts.find((one) => one.prompt === summary.prompt);
      const prompt = index.prompts[summary.prompt];
      const linkOf = (variant, one) => (variant.traces.includes(summary.prompt) ? el("a", { href: route("tokens", variant.id, prompt.prompt_id, one.first_flip_step ?? 0) }, variantName(variant)) : variantName(variant));
      const side = (variant, one) => el("div", { class: "text" }, el("h4", null, linkOf(variant, one), el("span", { class: "hint" }, isNumber(one.first_flip_step) ? ` first flip at step ${one.first_flip_step}` : " same text", isNumber(one.collapse_step) ? `, loop closed at ${one.collapse_step}` : "")), el("p", { dir: "auto" }, one.text_same, el("mark", null, one.text_pruned)));
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
  const better = column.better && value !== 0 ? ((value > 0) === (column.better === "high") ? " ▲" : " ▼") : "";
  return `${value > 0 ? "+" : ""}${cell(column, value)}${better}`;
}

function overlaid(scope, a, b) {
  const drawings = [["h", "1 − cos, h"], ["z", "1 − cos, z"], ["p", "1 − cos, p"], ["kl", "KL(dense ‖ pruned), nats"]].map(([key, title]) => {
    // The places of both, in the order of A: two recipes may have changed different sublayers.
    const places = [...new Set([...a.places, ...b.places])].sort((one, two) => Number.parseInt(one, 10) - Number.parseInt(two, 10) || one.localeCompare(two));
    const along = (layers) => places.map((place) => layers[key][layers.places.indexOf(place)] ?? null);
    return layerCurves({ title, places, series: [{ name: "A", className: "side-a", mark: "circle", values: along(a) }, { name: "B", className: "side-b", mark: "square", dashed: true, values: along(b) }] });
  });
  return el("div", null, el("h3", null, scope), el("p", { class: "hint" }, SCOPES[scope] ?? ""), el("div", { class: "panels" }, drawings));
}

function answersTable(a, b) {
  const rows = Object.keys(a.answers).filter((key) => b.answers[key]).map((key) => {
    const counts = { key, both: 0, onlyA: 0, onlyB: 0, neither: 0 };
    for (const [sample, one] of Object.entries(a.answers[key])) {
      const other = b.answers[key][sample];
      if ((one === 0 || one === 1) && (other === 0 || other === 1)) counts[one && other ? "both" : one ? "onlyA" : other ? "onlyB" : "neither"] += 1;
    }
    return counts;
  });
  if (!rows.length) return null;
  const count = (id, title) => ({ id, heading: title, align: "number", value: (row) => row[id], cell: (row) => number(row[id]) });
  return el("section", null, heading(2, "Answers", a.answers_sql), dataTable({ label: "answers of both", rows, columns: [{ id: "key", heading: "task and metric", value: (row) => row.key, cell: (row) => name(row.key) }, count("both", "both right"), count("onlyA", "only A right"), count("onlyB", "only B right"), count("neither", "both wrong")] }));
}
