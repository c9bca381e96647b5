// Prompts: how many texts break by kind, which prompts break first, and the page of one prompt.

const MANY = 8;
const RULE = "What breaks first comes first: ";
const MARKED = "Marked: the text from the first token that differs from the dense one.";
const pickKind = { label: "kind of prompt", of: (row) => row.kind };

// The share of the prompts of a kind, with its 95 % interval.
function shareColumn(id, heading, of, ends) {
  return { id, heading, of, cell: (kind) => (kind[of] ? [ratio(kind[id], kind[of]), el("small", { class: "hint", title: "95 % interval of the share" }, ` ${kind[ends].map((end) => percent(end, 0)).join(" to ")} %`)] : "–") };
}

// How the texts of variants to each kind of prompt differ from the dense ones.
function kindsTable(variants) {
  const rows = variants.flatMap((variant) => variant.kinds.map((kind) => ({ ...kind, variant })));
  return dataTable({
    label: "texts by kind of prompt",
    isCards: true,
    limit: 12,
    rows,
    filter: variants.length > 1 ? (row) => row.variant.id : undefined,
    pick: pickKind,
    rowClass: ({ variant }) => (variant.is_dense ? "reference" : null),
    columns: [
      variants.length > 1 && { id: "variant", value: ({ variant }) => variant.id, cell: ({ variant }) => variantLink(variant) },
      ...fields({ kind: "kind" }),
      shareColumn("prompts_flipped", "flipped", "prompts", "flipped_ends"),
      ...fields({ first_flip_step_median: "first flip, step" }),
      shareColumn("prompts_collapsed", "loops", "prompts", "collapsed_ends"),
      ...fields({ kl_step0_nats: "KL, step 0, nats" }),
      shareColumn("prompts_correct", "right", "prompts_graded", "correct_ends"),
    ],
  });
}

function promptLink(prompt) {
  return el("a", { href: route("prompt", prompt.model, prompt.prompt_id) }, name(prompt.name));
}

function promptsTable() {
  const isMany = index.prompts.length > MANY;
  const counted = (id, heading, doc, of = "variants") => ({ id, heading, doc, of });
  return [
    isMany && el("p", { class: "hint" }, `${RULE}prompts by the median first flip over the variants, then by the shares of variants that flip and that loop, then by KL at step 0.`),
    dataTable({
      label: "prompts",
      isCards: true,
      rows: index.prompts.toSorted((a, b) => index.models.indexOf(a.model) - index.models.indexOf(b.model) || a.place_in_order - b.place_in_order),
      limit: 12,
      filter: isMany ? (prompt) => `${prompt.name} ${prompt.kind} ${prompt.prompt_text}` : undefined,
      pick: pickKind,
      columns: [
        { id: "name", heading: "prompt", cell: promptLink },
        index.models.length > 1 && { id: "model" },
        { id: "kind" },
        { id: "prompt_text", heading: "text", align: "wide", cell: (prompt) => el("span", { class: "clamp", dir: "auto" }, prompt.prompt_text.slice(0, 300)) },
        { id: "first_flip_step_median", heading: "first flip, step", doc: "median over the variants; – if most never flip" },
        counted("variants_flipped", "flipped", "variants whose text differs from the dense one"),
        counted("variants_collapsed", "loops", "variants whose text falls into a loop"),
        { id: "kl_step0_median_nats", heading: "KL, step 0, nats", doc: "median over the variants at the first generated token" },
        counted("variants_correct", "right", "variants with the right answer", "variants_graded"),
        { id: "steps", heading: "tokens", doc: "of the dense text" },
      ],
    }),
  ];
}

// Columns that compare a text with the dense one; variantOf and asked give the ends of the link to its tokens.
function textColumns(variantOf, asked) {
  const has = (one) => variantOf(one).traces.includes(one.prompt_id);
  return [
    ...fields({ first_flip_step: "first flip, step", collapse_step: "loop, step", kl_step0_nats: "KL, step 0, nats", kl_forced_mean_nats: "mean KL, forced, nats", kl_own_mean_nats: "mean KL, own text, nats" }),
    { id: "is_correct", heading: "answer", cell: (one) => (one.is_correct === null ? "–" : one.is_correct ? "right" : "wrong") },
    { id: "tokens", heading: "", value: has, cell: (one) => has(one) && tokensLink(variantOf(one), asked(one), one.first_flip_step) },
  ];
}

function tokensLink(variant, prompt, step, ...text) {
  return el("a", { href: route("tokens", variant.id, prompt.prompt_id, step ?? 0) }, text.length ? text : "tokens");
}

// The texts of one variant: those that break first, and a table of all.
function textsOf(variant, own) {
  const isMany = own.prompts.length > MANY;
  const absent = own.prompts.length - variant.traces.length;
  const asked = (one) => promptOf(variant.model, one.prompt_id);
  return [
    isMany && kindsTable([variant]),
    isMany && !variant.is_dense && [
      el("p", { class: "hint" }, `${RULE}texts by their first flip, then by their loop, then by KL at step 0.`, absent > 0 && ` Token by token, this file has ${variant.traces.length} of ${own.prompts.length}: of each kind those that break first, and one with layers. “prunescope serve” shows all.`),
      dataTable({
        label: "prompts of this variant",
        isCards: true,
        rows: own.prompts,
        limit: 12,
        filter: (one) => `${asked(one).name} ${asked(one).prompt_text}`,
        pick: { ...pickKind, of: (one) => asked(one).kind },
        columns: [
          { id: "name", heading: "prompt", value: (one) => asked(one).name, cell: (one) => promptLink(asked(one)) },
          { id: "kind", value: (one) => asked(one).kind },
          ...textColumns(() => variant, asked),
        ],
      }),
    ],
    el("p", { class: "hint" }, MARKED),
    someOf(own.prompts, 6, (one) => promptCard(variant, one), "prompts"),
  ];
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
  const pruned = prunedVariants.filter((variant) => variant.model === model && isNumber(kl(variant))).toSorted((a, b) => kl(a) - kl(b));
  const own = index.prompts.filter((prompt) => prompt.model === model);
  const open = own.filter((prompt) => prompt.kind === "open");
  const asked = (open.length ? open : own).toSorted((a, b) => a.place_in_order - b.place_in_order);
  const prompt = asked[Math.floor(asked.length / 2)];
  if (!prompt || !pruned.length) return null;
  const texts = el("div", { class: "example" }, el("p", { class: "hint" }, "…"));
  const section = el("section", null, heading(2, "What they write"), el("p", null, promptLink(prompt), " ", el("span", { dir: "auto" }, prompt.prompt_text.slice(0, 400))), texts);
  load("prompt", prompt.model, prompt.prompt_id).then(({ texts: found }) => {
    const chosen = [index.variants.find((variant) => variant.model === model && variant.is_dense), pruned[0], ...pruned.slice(1).slice(-1)];
    refill(texts, chosen.map((variant) => {
      const one = variant && found.find((text) => text.variant === variant.id);
      return one && el("div", null, textOf(variant, one), variant.traces.includes(one.prompt_id) && el("p", { class: "hint" }, `first flip: step ${number(one.first_flip_step)} · `, tokensLink(variant, prompt, one.first_flip_step)));
    }));
  }).catch(() => section.remove()); // a full file leaves it out
  return section;
}

async function promptPage(model, id) {
  const prompt = knownPrompt(model, id);
  const own = await load("prompt", model, id);
  const rows = own.texts.map((one) => ({ ...one, of: variantsById.get(one.variant) }));
  const where = { model: rows[0].of.where.model, prompt_id: id };
  const [dense, pruned] = [rows.find((one) => one.of.is_dense), rows.filter((one) => !one.of.is_dense)];
  const isSame = (one) => !one.text_dense && !one.text_pruned;
  const same = pruned.filter(isSame);
  return [
    heading(1, [name(prompt.name), el("span", { class: "hint" }, ` prompt, ${prompt.kind}`)]),
    el("blockquote", { dir: "auto" }, prompt.prompt_text),
    el("p", null, prompt.gold !== null && ["Right answer: ", name(prompt.gold), ". "], prompt.is_correct_dense !== null && `The dense model’s is ${prompt.is_correct_dense ? "right" : "wrong"}. `, !prompt.has_layers && "Measured at the output only: this prompt has no layers."),
    el("section", null, heading(2, "Numbers", "prompts", where), tiles([["place in what breaks first", number(prompt.place_in_order)], ["variants flipped", ratio(prompt.variants_flipped, prompt.variants)], ["loops", ratio(prompt.variants_collapsed, prompt.variants)], ["first flip, median step", number(prompt.first_flip_step_median)], ["earliest", number(prompt.first_flip_step_min)], ["KL, step 0, median, nats", number(prompt.kl_step0_median_nats)], ["right", ratio(prompt.variants_correct, prompt.variants_graded)], ["tokens", number(prompt.steps)]])),
    el("section", null, el("div", { class: "headed" }, el("h2", null, "Variants"), sqlMenu([["KL of the texts", "text_means"], ["where texts differ", "parts"]], where)), dataTable({
      label: "variants of this prompt",
      isCards: true,
      rows: pruned,
      sortBy: "first_flip_step",
      limit: 40,
      filter: pruned.length > 12 ? (one) => one.of.id : undefined,
      columns: [
        { id: "variant", value: (one) => one.of.id, cell: (one) => variantLink(one.of) },
        { id: "verdict", doc: index.verdict_rule, value: (one) => one.of.verdict, cell: (one) => verdict(one.of) },
        ...textColumns((one) => one.of, () => prompt),
      ],
    })),
    el("section", null, heading(2, "Texts", "texts", where), el("p", { class: "hint" }, MARKED), dense && textOf(dense.of, dense), same.length > 0 && el("p", { class: "hint" }, "The same text: ", same.map((one, at) => [at > 0 && ", ", name(titleOf(one.of))]), "."), someOf(pruned.filter((one) => !isSame(one)).toSorted((a, b) => (a.first_flip_step ?? Infinity) - (b.first_flip_step ?? Infinity) || 0), 6, (one) => el("article", { class: "prompt" }, textOf(one.of, one)), "variants")),
  ];
}
