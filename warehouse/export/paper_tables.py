"""Printed formats of the views `paper_*` in `sql/marts`."""

from prunescope.warehouse.export.table_spec import ColumnFormat, TableSpec

_MODEL, _RECIPE, _METHOD = ColumnFormat("model"), ColumnFormat("recipe"), ColumnFormat("method")
_REMOVED = ColumnFormat("parameters_removed_share", "removed", "%", scale=100)
_FORCED = ColumnFormat("kl_teacher_forced_mean_nats", "KL forced", "nats", best="min")
_OWN = ColumnFormat("kl_own_text_mean_nats", "KL own text", "nats")
_AGREEMENT = ColumnFormat("top1_agreement", "same top token", "%", best="max", scale=100)
_KL = "KL is KL(dense‖pruned). "
_PROMPTS = (
    _KL + "Forced: both models read the dense tokens; free: each reads its own. Means over all steps of all prompts ± "
    "standard error over prompts."
)


def _score(kind: str) -> ColumnFormat:
    name = f"{kind}_score"
    return ColumnFormat(name, kind.replace("_", "-"), "%", best="max", scale=100)


PAPER_TABLES: dict[str, TableSpec] = {
    "paper_variants": TableSpec(
        "What each recipe removes from the model and what that costs at its output",
        (
            *(_MODEL, _RECIPE, _REMOVED, ColumnFormat("sparsity", unit="%", scale=100)),
            *(ColumnFormat("prompts"), ColumnFormat("steps"), _FORCED, _OWN, _AGREEMENT),
            ColumnFormat("first_flip_step_median", "first flip", "step", best="max"),
            ColumnFormat("options_argmax_kept", "choices kept", of="questions"),
            ColumnFormat("prompts_correct", "right answers", of="prompts_graded"),
        ),
        _PROMPTS + " First flip: median step of the first token that differs, – if most texts never do.",
        within=("model",),
    ),
    "paper_texts": TableSpec(
        "Perplexity and divergence from the dense model on running text",
        (
            *(_MODEL, ColumnFormat("text_id", "text"), ColumnFormat("context"), ColumnFormat("stride")),
            *(ColumnFormat("tokens"), ColumnFormat("windows"), _RECIPE),
            ColumnFormat("ppl_pruned", "perplexity", best="min"),
            ColumnFormat("ln_ppl_ratio", "ln(perplexity / dense)"),
            ColumnFormat("kl_mean_nats", "KL", "nats", best="min"),
            ColumnFormat("kl_median_nats", "median KL", "nats"),
            ColumnFormat("kl_p99_nats", "99 % KL", "nats"),
            ColumnFormat("delta_p_rms", "RMS Δp", "%", best="min", scale=100),
            _AGREEMENT,
            ColumnFormat("kl_noise_p95_nats", "noise KL", "nats"),
        ),
        _KL + "± standard error over windows, which takes the tokens of a window as one unit. Δp: change of the true "
        "token's probability. Noise KL: 95th percentile of the dense model under rounding alone. Perplexities are "
        "comparable only for the same text, context and stride.",
        within=("model", "text_id", "context", "stride"),
    ),
    "paper_patterns": TableSpec(
        "What a pattern costs: unstructured, 4:8 and 2:4 at one sparsity, by method",
        (
            *(_MODEL, ColumnFormat("sparsity_percent", "sparsity", "%"), ColumnFormat("measured_on", "on")),
            *(ColumnFormat("measure"), _METHOD, ColumnFormat("dense")),
            ColumnFormat("unstructured", best="min"),
            ColumnFormat("pattern_4of8", "4:8", best="min"),
            ColumnFormat("pattern_2of4", "2:4", best="min"),
        ),
        _KL + "± standard error, over prompts (teacher forced) or over windows of a text.",
        within=("model", "sparsity_percent", "measured_on", "measure"),
    ),
    "paper_drops": TableSpec(
        "Divergence and scores against the number of dropped sublayers or blocks",
        (
            *(_MODEL, _METHOD, ColumnFormat("dropped"), _RECIPE, _REMOVED, _FORCED, _OWN, _AGREEMENT),
            _score("non_generative"),
            _score("generative"),
        ),
        _PROMPTS + " Scores: mean over tasks ± standard error over samples, – if none was scored.",
        within=("model", "dropped"),
    ),
    "paper_fits": TableSpec(
        "How closely the second-order estimates of the theorems match the truth",
        (
            *(_MODEL, ColumnFormat("theorem"), _METHOD, ColumnFormat("n"), ColumnFormat("prompts")),
            ColumnFormat("pearson", "r", best="max"),
            ColumnFormat("pearson_log10", "r of logarithms", best="max"),
            ColumnFormat("ratio_median", "estimate / truth"),
            ColumnFormat("share_within_10_percent", "within a tenth", "%", scale=100),
        ),
        "After one swapped sublayer and the final norm. r ± standard error over prompts (jackknife). Estimate / "
        "truth: median [10th, 90th percentile of the points].",
        within=("model", "theorem"),
    ),
    "paper_claims": TableSpec(
        "The paper's claims, tested on this model",
        (
            *(_MODEL, ColumnFormat("claim"), ColumnFormat("measure"), ColumnFormat("says", "in words")),
            ColumnFormat("amount", "figure"),
            ColumnFormat("null_amount", "under rounding"),
            *(ColumnFormat("threshold"), ColumnFormat("n"), ColumnFormat("units", "of"), ColumnFormat("verdict")),
        ),
        "Figure [95 % interval]. A claim holds, or does not, if the whole interval is on one side of the threshold. An "
        "effect must also exceed that of rounding alone.",
        within=("model", "claim"),
    ),
    "paper_published": TableSpec(
        "Published numbers and ours",
        (
            *(_MODEL, ColumnFormat("model_published", "published model"), ColumnFormat("task"), ColumnFormat("metric")),
            *(_METHOD, ColumnFormat("dropped"), ColumnFormat("layer"), _RECIPE),
            ColumnFormat("measured_on", "ours on"),
            ColumnFormat("value_published", "published"),
            ColumnFormat("value_ours", "ours"),
            ColumnFormat("kept_published", "published kept"),
            ColumnFormat("kept_ours", "ours kept"),
            *(ColumnFormat("n"), ColumnFormat("shots"), ColumnFormat("source", "published in")),
        ),
        "Scores are shares, perplexities are per token; ± standard error over samples, which published numbers do not "
        "have. – as ours: not measured. Layer −1: the whole model. Kept: divided by the dense score of the same model; "
        "only this is comparable between models.",
        within=("model", "model_published", "task", "metric"),
    ),
}
