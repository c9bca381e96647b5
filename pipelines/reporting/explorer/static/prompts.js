// Prompts: how many texts break by kind, which prompts break first, and the page of one prompt.

const KINDS = {
  flipped: { title: "flipped", doc: "texts that differ from the dense one", share: (kind) => [kind.flipped, kind.prompts, kind.flipped_ends] },
  first_flip: { title: "first flip, step", doc: "median; – if at least half never flip", value: (kind) => kind.first_flip },
  collapsed: { title: "loops", doc: "texts that fall into a loop", share: (kind) => [kind.collapsed, kind.prompts, kind.collapsed_ends] },
  kl_step0: { title: "KL, step 0, nats", doc: "mean at the first generated token", value: (kind) => kind.kl_step0 },
  correct: { title: "right", doc: "right answers of those that were graded", share: (kind) => [kind.correct, kind.graded, kind.correct_ends] },
};
const MANY = 8;
const RULE = "What breaks first comes first: ";

function ratio([part, whole]) {
  return whole ? `${number(part)}/${number(whole)}` : "–";
}

function shareOf([part, whole]) {
  return whole ? part / whole : null;
}

// Variants × kinds of prompts, one measure at a time.
function byKind() {
  if (index.prompts.length <= MANY) return null;
  const kinds = [...new Set(index.variants.flatMap((variant) => variant.kinds.map((one) => one.kind)))];
  const place = el("div");
  const draw = (key) => {
    const measure = KINDS[key];
    const of = (variant, kind) => variant.kinds.find((one) => one.kind === kind);
    refill(place, dataTable({
      label: "variants by kind of prompt",
      isCards: true,
      limit: 12,
      rows: index.variants.filter((variant) => variant.kinds.length && (key === "correct" || !variant.is_dense)),
      rowClass: (variant) => (variant.is_dense ? "reference" : null),
      columns: [
        { id: "variant", heading: "variant", value: (variant) => variant.id, cell: (variant) => el("a", { href: route("variant", variant.id) }, variantName(variant)) },
        ...kinds.map((kind) => ({
          id: kind,
          heading: kind,
          doc: measure.doc,
          align: "number",
          value: (variant) => valueOf(measure, of(variant, kind)),
          cell: (variant) => shown(measure, of(variant, kind)),
        })),
      ],
    }), el("p", { class: "hint under" }, `${measure.title}: ${measure.doc}${measure.share ? ", with the 95 % interval of their share" : ""}.`));
  };
  draw("flipped");
  return [el("div", { class: "tools" }, choice("By kind", Object.entries(KINDS).map(([key, { title }]) => [key, title]), "flipped", draw), sqlLink("kinds", "the texts by kind of prompt")), place, el("h3", null, "What breaks first")];
}

function valueOf(measure, kind) {
  return kind ? (measure.share ? shareOf(measure.share(kind)) : measure.value(kind)) : null;
}

function shown(measure, kind) {
  if (!kind) return "–";
  if (!measure.share) return number(measure.value(kind));
  const [part, whole, ends] = measure.share(kind);
  const range = ends.map((end) => (100 * end).toFixed(0)).join(" to ");
  return whole ? [ratio([part, whole]), el("small", { class: "hint", title: "95 % interval of the share" }, ` ${range} %`)] : "–";
}

function promptLink(prompt) {
  return el("a", { href: route("prompt", prompt.model, prompt.prompt_id) }, name(prompt.name));
}

const pickKind = { label: "kind of prompt", of: (row) => (row.prompt === undefined ? row.kind : index.prompts[row.prompt].kind) };

function promptsTable() {
  const isMany = index.prompts.length > MANY;
  return [
    isMany && el("p", { class: "hint" }, `${RULE}prompts by the median first flip over the variants, then by the shares of variants that flip and that loop, then by KL at step 0.`),
    dataTable({
      label: "prompts",
      isCards: true,
      rows: index.prompts.toSorted((a, b) => index.models.indexOf(a.model) - index.models.indexOf(b.model) || a.place - b.place),
      limit: 12,
      filter: isMany ? (prompt) => `${prompt.name} ${prompt.kind} ${prompt.text}` : undefined,
      pick: pickKind,
      columns: [
        { id: "name", heading: "prompt", value: (prompt) => prompt.name, cell: promptLink },
        ...(index.models.length > 1 ? [{ id: "model", heading: "model", value: (prompt) => prompt.model, cell: (prompt) => name(prompt.model) }] : []),
        { id: "kind", heading: "kind", value: (prompt) => prompt.kind, cell: (prompt) => prompt.kind },
        { id: "text", heading: "text", align: "wide", value: (prompt) => prompt.text, cell: (prompt) => el("span", { class: "clamp", dir: "auto" }, prompt.text.slice(0, 300)) },
        { id: "first_flip", heading: "first flip, step", doc: "median over the variants; – where most never flip", align: "number", value: (prompt) => prompt.first_flip_median, cell: (prompt) => number(prompt.first_flip_median) },
        { id: "flipped", heading: "flipped", doc: "variants whose text differs from the dense one", align: "number", value: (prompt) => shareOf([prompt.flipped, prompt.variants]), cell: (prompt) => ratio([prompt.flipped, prompt.variants]) },
        { id: "collapsed", heading: "loops", doc: "variants whose text falls into a loop", align: "number", value: (prompt) => shareOf([prompt.collapsed, prompt.variants]), cell: (prompt) => ratio([prompt.collapsed, prompt.variants]) },
        { id: "kl_step0", heading: "KL, step 0, nats", doc: "median over the variants at the first generated token", align: "number", value: (prompt) => prompt.kl_step0, cell: (prompt) => number(prompt.kl_step0) },
        { id: "correct", heading: "right", doc: "variants with the right answer", align: "number", value: (prompt) => shareOf([prompt.correct, prompt.graded]), cell: (prompt) => ratio([prompt.correct, prompt.graded]) },
        { id: "steps", heading: "tokens", doc: "of the dense text", align: "number", value: (prompt) => prompt.steps, cell: (prompt) => number(prompt.steps) },
      ],
    }),
  ];
}

// Columns that compare a text with the dense one, with a link to its tokens if this page has them.
const TEXT_COLUMNS = [
  { id: "first_flip", heading: "first flip, step", align: "number", value: (one) => one.first_flip_step, cell: (one) => number(one.first_flip_step) },
  { id: "collapse", heading: "loop, step", align: "number", value: (one) => one.collapse_step, cell: (one) => number(one.collapse_step) },
  { id: "kl_step0", heading: "KL, step 0, nats", align: "number", value: (one) => one.kl_step0, cell: (one) => number(one.kl_step0) },
  { id: "forced", heading: "mean KL, forced, nats", align: "number", value: (one) => one.kl_forced_mean, cell: (one) => number(one.kl_forced_mean) },
  { id: "own", heading: "mean KL, own text, nats", align: "number", value: (one) => one.kl_own_mean, cell: (one) => number(one.kl_own_mean) },
  { id: "answer", heading: "answer", value: (one) => one.is_correct, cell: (one) => (one.is_correct === null ? "–" : one.is_correct ? "right" : "wrong") },
];

function tokensLink(variant, prompt, step) {
  return el("a", { href: route("tokens", variant.id, prompt.prompt_id, step ?? 0) }, "tokens");
}

// The texts of one variant: those that break first, and a table of all.
function textsOf(variant, own) {
  const isMany = own.prompts.length > MANY;
  const absent = own.prompts.length - variant.traces.length;
  return [
    isMany && !variant.is_dense && [
      el("p", { class: "hint" }, `${RULE}texts by their first flip, then by their loop, then by KL at step 0.`, absent > 0 && ` Token by token, this file has ${variant.traces.length} of ${own.prompts.length}: of each kind those that break first, and one with layers. “prunescope serve” shows all.`),
      dataTable({
        label: "prompts of this variant",
        isCards: true,
        rows: own.prompts,
        limit: 12,
        filter: (one) => `${index.prompts[one.prompt].name} ${index.prompts[one.prompt].text}`,
        pick: pickKind,
        columns: [
          { id: "name", heading: "prompt", value: (one) => index.prompts[one.prompt].name, cell: (one) => promptLink(index.prompts[one.prompt]) },
          { id: "kind", heading: "kind", value: (one) => index.prompts[one.prompt].kind, cell: (one) => index.prompts[one.prompt].kind },
          ...TEXT_COLUMNS,
          { id: "tokens", heading: "", value: (one) => variant.traces.includes(one.prompt), cell: (one) => variant.traces.includes(one.prompt) && tokensLink(variant, index.prompts[one.prompt], one.first_flip_step) },
        ],
      }),
    ],
    el("p", { class: "hint" }, "Marked: the text from the first token that differs from the dense one."),
    someOf(own.prompts, 6, (one) => promptCard(variant, one), "prompts"),
  ];
}

// Texts by kind of prompt, of one variant.
function kindsOf(variant) {
  if (variant.kinds.reduce((sum, kind) => sum + kind.prompts, 0) <= MANY) return null;
  return dataTable({
    label: "texts by kind of prompt",
    rows: variant.kinds,
    columns: [
      { id: "kind", heading: "kind", value: (kind) => kind.kind, cell: (kind) => kind.kind },
      ...Object.entries(KINDS).filter(([key]) => key === "correct" || !variant.is_dense).map(([key, measure]) => ({ id: key, heading: measure.title, doc: measure.doc, align: "number", value: (kind) => valueOf(measure, kind), cell: (kind) => shown(measure, kind) })),
    ],
  });
}

// Says for which prompts the layers were measured, if not for all.
function layeredOf(model) {
  const all = index.prompts.filter((prompt) => prompt.model === model);
  const layered = all.filter((prompt) => prompt.has_layers).length;
  return layered < all.length ? `${layered} of ${all.length} prompts (the others were measured at the output only)` : "prompts";
}

// On the overview: one prompt's text by the dense model and by the nearest and furthest variants.
function example() {
  const { model } = index.variants[0] ?? {};
  const kl = (variant) => variant.numbers.kl_teacher_forced_median_nats;
  const pruned = index.variants.filter((variant) => variant.model === model && !variant.is_dense && isNumber(kl(variant))).toSorted((a, b) => kl(a) - kl(b));
  const own = index.prompts.filter((prompt) => prompt.model === model);
  const open = own.filter((prompt) => prompt.kind === "open");
  const asked = (open.length ? open : own).toSorted((a, b) => a.place - b.place);
  const prompt = asked[Math.floor(asked.length / 2)];
  if (!prompt || !pruned.length) return null;
  const texts = el("div", { class: "example" }, el("p", { class: "hint" }, "…"));
  const section = el("section", null, heading(2, "What they write"), el("p", null, promptLink(prompt), " ", el("span", { dir: "auto" }, prompt.text.slice(0, 400))), texts);
  load(`prompt/${index.prompts.indexOf(prompt)}`).then(({ texts: found }) => {
    const chosen = [index.variants.find((variant) => variant.model === model && variant.is_dense), pruned[0], ...pruned.slice(1).slice(-1)];
    refill(texts, chosen.map((variant) => {
      const one = variant && found.find((text) => index.variants[text.variant].id === variant.id);
      const step = one && (one.first_flip_step ?? 0);
      return one && el("div", null, textOf(variant.recipe, one.text_same, variant.is_dense ? one.text_dense : one.text_pruned, !variant.is_dense), variant.traces.includes(one.prompt) && el("p", { class: "hint" }, `first flip: step ${number(one.first_flip_step)} · `, tokensLink(variant, prompt, step)));
    }));
  }).catch(() => section.remove()); // a full file leaves it out
  return section;
}

async function promptPage(model, id) {
  const place = promptPlace(model, id);
  if (place < 0) throw new Error(`This study has no prompt “${id}”.`);
  const prompt = index.prompts[place];
  const own = await load(`prompt/${place}`);
  const where = { model: index.variants[own.texts[0].variant].where.model, prompt_id: prompt.prompt_id };
  const rows = own.texts.map((one) => ({ ...one, of: index.variants[one.variant] }));
  const [dense, pruned] = [rows.find((one) => one.of.is_dense), rows.filter((one) => !one.of.is_dense)];
  const same = pruned.filter((one) => !one.text_dense && !one.text_pruned);
  const value = (title, text) => el("div", null, el("span", null, title), el("b", null, text));
  return [
    el("h1", { tabindex: -1 }, name(prompt.name), el("span", { class: "hint" }, ` prompt, ${prompt.kind}`)),
    el("blockquote", { dir: "auto" }, prompt.text),
    el("p", null, prompt.gold !== null && ["Right answer: ", name(prompt.gold), ". "], prompt.is_correct_dense !== null && `The dense model’s is ${prompt.is_correct_dense ? "right" : "wrong"}. `, !prompt.has_layers && "Measured at the output only: this prompt has no layers."),
    el("section", null, el("h2", null, "Numbers", sqlLink("prompts", "this prompt", where)), el("div", { class: "numbers" }, value("place in what breaks first", number(prompt.place)), value("variants flipped", ratio([prompt.flipped, prompt.variants])), value("loops", ratio([prompt.collapsed, prompt.variants])), value("first flip, median step", number(prompt.first_flip_median)), value("earliest", number(prompt.first_flip_min)), value("KL, step 0, median, nats", number(prompt.kl_step0)), value("right", ratio([prompt.correct, prompt.graded])), value("tokens", number(prompt.steps)))),
    el("section", null, el("div", { class: "headed" }, el("h2", null, "Variants"), sqlMenu([["KL of the texts", "text_means"], ["where texts differ", "parts"]], where)), dataTable({
      label: "variants of this prompt",
      isCards: true,
      rows: pruned,
      sortBy: "first_flip",
      limit: 40,
      filter: pruned.length > 12 ? (one) => one.of.id : undefined,
      columns: [
        { id: "variant", heading: "variant", value: (one) => one.of.id, cell: (one) => el("a", { href: route("variant", one.of.id) }, variantName(one.of)) },
        { id: "verdict", heading: "verdict", doc: index.verdict_rule, value: (one) => one.of.verdict, cell: (one) => verdict(one.of) },
        ...TEXT_COLUMNS,
        { id: "tokens", heading: "", value: (one) => one.of.traces.includes(place), cell: (one) => one.of.traces.includes(place) && tokensLink(one.of, prompt, one.first_flip_step) },
      ],
    })),
    el("section", null, heading(2, "Texts", "texts", where), el("p", { class: "hint" }, "Marked: the text from the first token that differs from the dense one."), dense && textOf("dense", dense.text_same, dense.text_dense, false), same.length > 0 && el("p", { class: "hint" }, "The same text: ", same.map((one, at) => [at > 0 && ", ", variantName(one.of)]), "."), someOf(pruned.filter((one) => !same.includes(one)).toSorted((a, b) => (a.first_flip_step ?? Infinity) - (b.first_flip_step ?? Infinity) || 0), 6, (one) => el("article", { class: "prompt" }, textOf(one.of.recipe, one.text_same, one.text_pruned, true)), "variants")),
  ];
}
