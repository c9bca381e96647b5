"""Types of the explorer's documents, which the scripts of the page read.

All displayed text has passed through `charts.display_text`. Raw ids serve only for links.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

Number: TypeAlias = float | None
Row: TypeAlias = dict[str, Any]


class Prompt(TypedDict):
    """One prompt of one model; m in `trace/<n>/<m>` is its position in the index."""

    model: str
    prompt_id: str  # raw
    name: str
    kind: str
    text: str
    gold: str | None
    steps: int  # generated tokens of the dense text
    place: int  # rank in its model by how early its texts break; 1 is first
    variants: int  # pruned variants with a text for it
    flipped: int  # variants whose text differs from the dense one
    collapsed: int  # variants whose text falls into a loop
    graded: int  # variants whose answer could be graded
    correct: int  # variants with the right answer
    is_correct_dense: bool | None
    first_flip_min: int | None  # over the variants
    first_flip_median: Number  # over the variants; None if most never flip
    kl_step0: Number  # median over the variants, nats
    has_layers: bool  # otherwise only the output was measured


class KindSummary(TypedDict):
    """Texts of one variant to the prompts of one kind."""

    kind: str
    prompts: int
    flipped: int
    collapsed: int
    graded: int
    correct: int
    # Ends of the 95 % intervals of these shares; empty without a graded prompt.
    flipped_ends: list[Number]
    collapsed_ends: list[Number]
    correct_ends: list[Number]
    first_flip: Number  # median step; None if at least half never flip
    kl_step0: Number  # mean, nats


class Column(TypedDict):
    """One column of the overview's table."""

    name: str  # key in VariantEntry.numbers
    heading: str
    doc: str
    form: Literal["percent", "number", "count"]  # percent: values are shares of 1
    sql: str
    of: str | None  # key of the total
    is_detail: bool  # hidden until the reader requests all columns


class Sparkline(TypedDict):
    """Mean KL over prompts per step, in nats; `forced` on the dense text, `own` on the variant's."""

    forced: list[Number]
    own: list[Number]


class GenerationCurves(TypedDict):
    """Medians over prompts along the generation of one variant: 1 − cos in h, z and p, and KL in nats.

    `own` and `fork` are empty if they were not measured.
    """

    id: str  # raw model@recipe
    step: list[int]
    forced: dict[str, list[Number]]  # h, z, p, kl → one entry per step
    own: dict[str, list[Number]]
    fork: dict[str, list[Number]]


class Source(TypedDict):
    """SQL of a sentence or number: a key of document `sql`, and the filter of its rows."""

    key: str
    where: dict[str, Any]  # column of `narrow`, or parameter as "$1" → raw value


class VariantEntry(TypedDict):
    """One row of the overview; n in `variant/<n>` is its position in the index."""

    id: str  # raw model@recipe
    model: str
    recipe: str
    method: str
    is_dense: bool
    verdict: str | None  # as in `variant_verdict`; None for the dense model
    verdict_reason: str | None
    words: list[str]  # same tokens, right answers, alive: each holds, fails or too little evidence; may be empty
    where: dict[str, str]  # raw model and recipe: the filter of its rows in any statement
    numbers: dict[str, Number]
    intervals: dict[str, list[Number]]  # ends of 95 % intervals; None if an end is not known
    spark: Sparkline
    kinds: list[KindSummary]
    traces: list[int]  # positions m of prompts with a document trace/<n>/<m>


class Link(TypedDict):
    """Link within the page."""

    text: str
    href: str


class Answer(TypedDict):
    """Answer to one of the main questions, for one model."""

    model: str
    question: str
    short: str  # one or two lines
    text: str  # details; may be empty
    sql: list[Source]
    links: list[Link]


class Claim(TypedDict):
    """One claim of the paper, and its verdict here."""

    model: str
    says: str
    measure: str | None
    verdict: str  # holds, does not hold, as under rounding, too little data
    amount: Number
    low: Number
    high: Number
    null: Number  # the same under rounding alone
    n: int
    units: str
    sql: Source


class SharedClaim(TypedDict):
    """One claim of the paper, and the models on which it holds."""

    says: str
    measure: str | None
    verdict: str  # holds on every model, holds on no model, differs, too little data
    hold: str  # names of models, like the next two
    fail: str
    open: str
    sql: Source


class FindingEntry(TypedDict):
    """One finding; findings of one theme are adjacent."""

    model: str
    theme: str
    text: str
    sql: Source


class FigureEntry(TypedDict):
    """Figure without its charts, which are in document `figures/<name>`."""

    name: str
    title: str
    caption: str
    alt: str
    sql: str


class Fact(TypedDict):
    """One fact that is needed to repeat the study."""

    name: str
    text: str  # may have several lines


class SearchResult(TypedDict):
    """Sentence with the result of a search for one budget."""

    text: str
    sql: Source


class SearchEntry(TypedDict):
    """Searches of one model."""

    model: str
    results: list[SearchResult]
    tables: list["Table"]  # per result: the loss of each kind of matrix, if matrices are split; sublayers by treatment


class Index(TypedDict):
    """Document `index`: the content of the overview."""

    study: str
    title: str
    live: bool
    models: list[str]
    lenses: dict[str, str]  # model → lens of its layers, except in figures: normed if measured
    prompts: list[Prompt]
    columns: list[Column]
    variants: list[VariantEntry]
    curves: list[GenerationCurves]  # of the first model; empty if no text was written
    verdict_basis: str
    verdict_rule: str
    answers: list[Answer]
    claims: list[Claim]
    claims_by_model: list[SharedClaim]  # empty if there is only one model
    findings: list[FindingEntry]
    searches: list[SearchEntry]  # empty if no search has a result
    figures: list[FigureEntry]  # figures without data last
    figures_without_data: list[str]  # names; empty on a live page, which draws figures on request
    facts: list[Fact]
    notes: list[str]  # sentences on what this file leaves out


class Chart(TypedDict):
    """One chart of a figure: a Vega-Lite specification without `config`."""

    title: str
    spec: Row


class FigureDocument(FigureEntry):
    """Document `figures/<name>`."""

    drawings: list[Chart]


class Statement(TypedDict):
    """One entry of document `sql`; the key of a view is "view/<name>".

    `narrow` lists the columns by which its rows may be filtered from outside (`select * from (…) where …`) without
    changing them. `views` are the keys of the views that it reads.
    """

    title: str
    sql: str
    views: list[str]
    narrow: list[str]


class TextOutcome(TypedDict):
    """Text of one variant to one prompt, compared with the dense text."""

    first_flip_step: int | None
    collapse_step: int | None
    collapse_step_dense: int | None
    answer: str | None
    answer_dense: str | None
    is_correct: bool | None
    is_correct_dense: bool | None
    parts_at: str | None  # sublayer whose output first changes the most likely token at the first flip, as "12 mlp"
    parts_for_good_at: str | None  # sublayer from which on that token stays different


class PromptSummary(TextOutcome):
    """One prompt of one variant."""

    prompt: int  # position m
    text_same: str  # common prefix of both texts
    text_dense: str  # continuation of the dense text
    text_pruned: str  # continuation of the pruned text
    kl_step0: Number
    kl_forced_mean: Number
    kl_own_mean: Number


class PromptVariant(PromptSummary):
    """Text of one variant to the prompt of a PromptDocument."""

    variant: int  # position n


class PromptDocument(TypedDict):
    """Document `prompt/<m>`: a prompt and the texts of all variants, the dense model's first."""

    texts: list[PromptVariant]


class LayerCurves(TypedDict):
    """Means over positions of the prompts with `has_layers`; parallel lists, one entry per sublayer, in layer order."""

    places: list[str]  # "0 attn", "0 mlp", …
    is_changed: list[bool]
    h: list[Number]  # 1 − cos
    z: list[Number]
    p: list[Number]
    kl: list[Number]  # nats
    kl_noise: list[Number]  # 95th percentile of the KL that rounding alone causes


class Carrier(TypedDict):
    """Changed sublayer and its share of the KL."""

    place: str
    scope: str  # isolated if measured, otherwise local
    kl: Number  # mean KL that this sublayer alone causes, nats
    share: Number  # of the sum over the variant's changed sublayers
    parted: int  # prompts whose most likely token at the first flip differs from here on


class Table(TypedDict):
    """Rows ready for display: numbers with 6 significant digits, invisible characters escaped."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    sql: Source | str


class VariantDocument(TypedDict):
    """Document `variant/<n>`."""

    facts: list[Fact]
    prompts: list[PromptSummary]  # those that break first come first
    layers: dict[str, LayerCurves]  # scope → curves
    carriers: list[Carrier]  # largest share first
    tables: list[Table]  # texts, tasks, comparisons with the dense model, flips, retrieval, speed; none is empty


class PairDocument(TypedDict):
    """Document `pair/<n>/<m>`, n < m: two variants on their common measurements; differences are b − a."""

    tables: list[Table]  # of tasks, of tokens; none is empty
    missing: list[str]


class FlipsDocument(TypedDict):
    """Document `turns`: right answers of every two variants, also of pairs without a `pair` document."""

    columns: list[str]  # as in the tables of a PairDocument
    pairs: dict[str, list[list[Any]]]  # "<n>/<m>", n < m → one row per metric


class PictureDocument(TypedDict):
    """Document `pictures/<name>`: the upper part of a figure's first drawing."""

    jpeg: str | None  # base64; None without data


class Steps(TypedDict):
    """Parallel lists, one entry per generated token."""

    step: list[int]
    token_dense: list[str]
    token_pruned: list[str]
    is_same: list[bool]
    kl: list[Number]  # KL(dense ‖ pruned), nats
    entropy_dense: list[Number]
    entropy_pruned: list[Number]
    margin_dense: list[Number]  # first logit minus second
    margin_pruned: list[Number]
    rank_of_dense_top1: list[int | None]  # in the pruned distribution, 1 is first
    h: list[Number]  # 1 − cos
    z: list[Number]
    p: list[Number]


class TopStep(TypedDict):
    """Most likely tokens of both sides at one step: token, dense and pruned probability."""

    dense: list[list[Any]]
    pruned: list[list[Any]]


class Layers(TypedDict):
    """Curves over the layers, teacher forced; matrices are sublayer × step."""

    places: list[str]
    is_changed: list[bool]
    steps: list[int]
    h: list[list[Number]]  # 1 − cos
    z: list[list[Number]]
    p: list[list[Number]]
    kl: list[list[Number]]  # nats
    is_top1_same: list[list[bool | None]]


class Options(TypedDict):
    """Options of a question at its first generated token; parallel lists, one entry per option."""

    labels: list[str]
    p_dense: list[Number]  # renormalized over the options
    p_pruned: list[Number]
    full_dense: list[Number]  # in the whole vocabulary
    full_pruned: list[Number]
    rank_dense: list[int | None]  # in the whole vocabulary, 1 is first
    rank_pruned: list[int | None]
    mass_dense: Number
    mass_pruned: Number
    kl_options: Number
    kl_vocabulary: Number
    gold: str | None
    is_argmax_same: bool | None


class Trace(TextOutcome):
    """Document `trace/<n>/<m>`: one answer, token by token. Numbers have 4 significant digits."""

    text_dense: str
    text_pruned: str
    answer_end_step: int | None
    answer_end_step_dense: int | None
    forced: NotRequired[Steps]
    own: NotRequired[Steps]
    top: dict[str, list[TopStep]]  # forced, own → one entry per step
    layers: dict[str, Layers]  # by scope: local, propagated, isolated
    options: Options | None
