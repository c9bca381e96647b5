"""What the documents of the explorer look like: the contract between those who build them and the page.

Every text for the eye went through `prunescope.pipelines.reporting.charts.display_text`; ids and prompt ids are raw, for links only.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

Number: TypeAlias = float | None
Row: TypeAlias = dict[str, Any]


class Prompt(TypedDict):
    """One prompt of one model; `trace/<n>/<m>` counts m in the index's list of these."""

    model: str
    prompt_id: str  # raw
    name: str
    kind: str
    text: str
    gold: str | None
    steps: int  # generated tokens of the dense text


class Column(TypedDict):
    """One column of the overview's table."""

    name: str  # key in VariantEntry.numbers
    heading: str
    doc: str
    form: Literal["percent", "number", "count"]  # percent: values are shares of 1
    sql: str
    of: str | None  # key of what it is a part of
    is_detail: bool  # left out of the overview until a reader asks for all columns


class Sparkline(TypedDict):
    """Mean KL over prompts a step, in nats; `forced` on the dense tokens, `free` on its own."""

    forced: list[Number]
    free: list[Number]


class Source(TypedDict):
    """The SQL behind a sentence or number: a key of document `sql`, and what chooses its rows."""

    key: str
    where: dict[str, Any]  # column of `narrow`, or parameter as "$1" → raw value


class VariantEntry(TypedDict):
    """One line of the overview; `variant/<n>` counts n in the index's list of these."""

    id: str  # raw model@recipe
    model: str
    recipe: str
    method: str
    is_dense: bool
    verdict: str | None  # safe, non-generative only, broken, not judged; None for the dense model
    verdict_reason: str | None
    is_certain: bool | None  # both ends of the intervals lead to the same verdict; None where there are none
    sql: Source  # of the verdict
    where: dict[str, str]  # raw model and recipe, which choose its rows in any statement
    numbers: dict[str, Number]
    spark: Sparkline
    traces: list[int]  # positions m of prompts whose document trace/<n>/<m> is here


class Link(TypedDict):
    """A link into the page."""

    text: str
    href: str


class Answer(TypedDict):
    """One of the questions that a reader comes with, answered of one model."""

    model: str
    question: str
    short: str  # the answer itself, in a line or two
    text: str  # what else there is to say of it; may be empty
    sql: list[Source]
    links: list[Link]


class Claim(TypedDict):
    """One claim of the paper, and whether it holds here."""

    model: str
    says: str
    measure: str | None
    verdict: str  # holds, does not hold, too little data
    amount: Number
    low: Number
    high: Number
    n: int
    units: str
    sql: Source


class FindingEntry(TypedDict):
    """One finding; those of one theme follow one another."""

    model: str
    theme: str
    text: str
    sql: Source


class FigureEntry(TypedDict):
    """A figure; document `figures/<name>` has its charts."""

    name: str
    title: str
    caption: str
    alt: str
    sql: str


class Fact(TypedDict):
    """What a reader needs to repeat the study."""

    name: str
    text: str  # may have several lines


class Index(TypedDict):
    """Document `index`: all that the overview shows."""

    study: str
    title: str
    live: bool
    models: list[str]
    lens: str  # of the layers everywhere but in figures: normed where it was measured
    prompts: list[Prompt]
    columns: list[Column]
    variants: list[VariantEntry]
    verdict_basis: str
    verdict_rule: str
    answers: list[Answer]
    claims: list[Claim]
    findings: list[FindingEntry]
    figures: list[FigureEntry]  # those without data last
    figures_without_data: list[str]  # their names; none where the page is live, which draws them only when asked
    facts: list[Fact]
    notes: list[str]  # what this file leaves out, in sentences


class Chart(TypedDict):
    """One chart of a figure: a Vega-Lite specification without `config`."""

    title: str
    spec: Row


class FigureDocument(FigureEntry):
    """Document `figures/<name>`."""

    drawings: list[Chart]


class Statement(TypedDict):
    """One entry of document `sql`, by its key; that of a view is "view/<name>".

    `narrow` lists columns by which its rows may be chosen from outside (`select * from (…) where …`) without changing
    them; `views` are the keys of the views that it reads.
    """

    title: str
    sql: str
    views: list[str]
    narrow: list[str]


class PromptSummary(TypedDict):
    """One prompt of one variant."""

    prompt: int  # position m
    first_flip_step: int | None
    collapse_step: int | None
    collapse_step_dense: int | None
    answer: str | None
    answer_dense: str | None
    is_correct: bool | None
    is_correct_dense: bool | None
    text_same: str  # the beginning that both texts share
    text_dense: str  # what follows in the dense text
    text_pruned: str  # what follows in the pruned one
    kl_forced_mean: Number
    kl_free_mean: Number
    parts_at: str | None  # place behind which the most likely token differs at the first flip, as "12 mlp"
    parts_for_good_at: str | None


class LayerCurves(TypedDict):
    """Means over prompts and positions; lists in step, one entry a sublayer, from the first to the last."""

    places: list[str]  # "0 attn", "0 mlp", …
    is_changed: list[bool]
    h: list[Number]  # 1 − cos
    z: list[Number]
    p: list[Number]
    kl: list[Number]  # nats
    kl_noise: list[Number]  # 95th percentile of what rounding alone makes


class Carrier(TypedDict):
    """A changed sublayer and its part in the damage."""

    place: str
    scope: str  # isolated where it was measured, else local
    kl: Number  # mean KL that this sublayer alone makes, nats
    share: Number  # of the sum over the variant's changed sublayers
    parted: int  # prompts whose most likely token parts for good here, at the first flip


class Table(TypedDict):
    """Rows to print as they are: numbers with 6 significant digits, texts made visible."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    sql: Source | str


class VariantDocument(TypedDict):
    """Document `variant/<n>`."""

    id: str
    facts: list[Fact]
    facts_sql: str
    prompts: list[PromptSummary]
    prompts_sql: str
    layers: dict[str, LayerCurves]  # scope → curves
    layers_sql: str
    carriers: list[Carrier]  # largest share first
    carriers_sql: str
    tables: list[Table]  # texts, tasks, comparisons with the dense model, flips, retrieval, speed: what there is


class PairDocument(TypedDict):
    """Document `pair/<n>/<m>`, n < m: both variants where both were measured; differences are b − a."""

    a: str  # raw model@recipe
    b: str
    tables: list[Table]  # of tasks, of tokens: what there is
    missing: list[str]


class FlipsDocument(TypedDict):
    """Document `turns`: the right answers of every two variants, also of those without a document of their own."""

    columns: list[str]  # as those of a PairDocument's tables
    pairs: dict[str, list[list[Any]]]  # "<n>/<m>", n < m → a row a metric
    sql: str


class Steps(TypedDict):
    """Lists in step, one entry a generated token."""

    step: list[int]
    token_dense: list[str]
    token_pruned: list[str]
    is_same: list[bool]
    kl: list[Number]  # KL(dense ‖ pruned), nats
    entropy_dense: list[Number]
    entropy_pruned: list[Number]
    margin_dense: list[Number]  # logit of the first minus that of the second
    margin_pruned: list[Number]
    rank_of_dense_top1: list[int | None]  # in the pruned distribution, 1 is first
    h: list[Number]  # 1 − cos
    z: list[Number]
    p: list[Number]


class TopStep(TypedDict):
    """The most likely tokens of either side at one step: token, its dense and its pruned probability."""

    dense: list[list[Any]]
    pruned: list[list[Any]]


class Layers(TypedDict):
    """Teacher forced; matrices are place × step."""

    places: list[str]
    is_changed: list[bool]
    steps: list[int]
    h: list[list[Number]]  # 1 − cos
    z: list[list[Number]]
    p: list[list[Number]]
    kl: list[list[Number]]  # nats
    is_top1_same: list[list[bool | None]]


class Options(TypedDict):
    """The question's options at its first generated token; lists in step, one entry an option."""

    labels: list[str]
    p_dense: list[Number]  # renormalised over the options
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


class Trace(TypedDict):
    """Document `trace/<n>/<m>`: one answer token by token. Numbers have 4 significant digits."""

    id: str
    prompt_id: str
    text_dense: str
    text_pruned: str
    first_flip_step: int | None
    collapse_step: int | None
    collapse_step_dense: int | None
    answer_end_step: int | None
    answer_end_step_dense: int | None
    answer: str | None
    answer_dense: str | None
    is_correct: bool | None
    is_correct_dense: bool | None
    forced: NotRequired[Steps]
    free: NotRequired[Steps]
    top: dict[str, list[TopStep]]  # forced, free → entry a step
    layers: dict[str, Layers]  # local, propagated, isolated: what was measured
    parts_at: str | None
    parts_for_good_at: str | None
    options: Options | None
    sql: dict[str, str]  # texts, steps, top, layers, options, parts → key
