"""Columns that more than one table has, so that one quantity has one name, unit and formula.

Only definitions; a table chooses from them.
"""

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, ForeignKey, Invariant

LABEL = pa.dictionary(pa.int32(), pa.string())
METRIC = pa.float32()

MODEL = Column("model", LABEL, "Name of the dense model.")
RECIPE = Column("recipe", LABEL, "Name of the recipe; `dense` is the unpruned model.")
PROMPT_ID = Column("prompt_id", LABEL, "Name of the prompt in its study.")
POSITION = Column("position", pa.int32(), "Token index in the sequence, prompt included, from 0.", minimum=0)
STEP = Column(
    "step",
    pa.int32(),
    "Generated token that this position predicts, from 0: the last prompt token predicts step 0.",
    minimum=0,
)
LAYER = Column("layer", pa.int16(), "Decoder layer, from 0.", minimum=0)
SUBLAYER = Column("sublayer", LABEL, "Part of the layer.", values=("attn", "mlp"))
SCOPE = Column(
    "scope",
    LABEL,
    "`local`: dense context, this one sublayer swapped, measured behind it; "
    "`isolated`: this one sublayer swapped, the dense rest run on top, measured at the output; "
    "`propagated`: the pruned model run whole on the same tokens.",
    values=("local", "isolated", "propagated"),
)
LENS = Column(
    "lens",
    LABEL,
    "What the LM head reads: `raw` the residual stream, `normed` the residual stream after the final norm. "
    "h, z and p of the row are all taken through it.",
    source="2603.24652 §3",
    values=("raw", "normed"),
)
TEMPERATURE = Column("temperature", pa.float64(), "Temperature T of the softmax.", minimum=1e-6)
TRAJECTORY = Column(
    "trajectory",
    LABEL,
    "`teacher_forced`: both models read the dense model's tokens; `free_running`: each reads its own.",
    values=("teacher_forced", "free_running"),
)

OF_MODEL = ForeignKey("models", ("model",))
OF_VARIANT = ForeignKey("variants", ("model", "recipe"))

TASK = Column("task", LABEL, "Name of the task.")
TASK_METRICS: dict[str, str] = {
    "accuracy": "the likeliest whole text of an option, log-likelihoods summed, is the right one",
    "accuracy_per_byte": "the same with log-likelihoods over the options' bytes",
    "accuracy_letter": "the likeliest option label is the right one",
    "exact_match": "the answer in the text, found strictly in the form that the examples show, is the right one",
    "exact_match_lenient": "the same, found leniently",
    "pass_at_1": "the program that was written passes its tests",
    "f1": "overlap of the words written with those of the right answer",
    "agreement": "the answer (by whole texts; found leniently in a written one) is the dense model's own, over the "
    "samples that the dense model answers",
    "word_perplexity": "perplexity a word, as the harness counts words",
    "byte_perplexity": "perplexity a byte of UTF-8",
    "token_perplexity": "perplexity a token",
}
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "token_perplexity")
# What a task of the harness is scored by besides: under the harness's own name.
OTHER_METRICS = "lm_eval/"
TASK_METRIC = Column(
    "metric",
    LABEL,
    f"Name of the metric. {'; '.join(f'`{name}`: {doc}' for name, doc in TASK_METRICS.items())}. `{OTHER_METRICS}NAME` "
    "is any other metric of the harness, under the name that it has there.",
)
TASK_HASH = Column("task_hash", pa.string(), "SHA-256 of the task: its samples, prompts, shots and scoring.")

DATA_SET = Column("data_set", LABEL, "Name of the retrieval data set.")
DATA_HASH = Column(
    "data_hash",
    pa.string(),
    "SHA-256 of corpus, queries and judgements, and of how texts were cut, prefixed and pooled: what has to be equal "
    "for two scores to compare.",
)

T1, T2, T3 = "2603.24652 Theorem 1", "2603.24652 Theorem 2", "2603.24652 Theorem 3"


def _vector_space(space: str, what: str) -> tuple[Column, ...]:
    """The geometry of one linear space: norms, cosine defect, parallel and orthogonal parts, T1."""
    v, dv = space, f"Δ{space}"
    return (
        Column(f"norm_{space}", METRIC, f"Length of the dense {what}.", "2-norm", f"‖{v}‖", minimum=0),
        Column(f"norm_d{space}", METRIC, f"Length of the shift of the {what}.", "2-norm", f"‖{dv}‖", minimum=0),
        Column(
            f"one_minus_cos_{space}",
            METRIC,
            f"Cosine defect between dense and pruned {what}, formed without cancellation.",
            "1 - cosine",
            f"1 − cos({v}, {v}+{dv})",
            T1,
            minimum=0,
            maximum=2.000001,
        ),
        Column(
            f"par_rel_{space}",
            METRIC,
            "Share of the shift along the dense vector, signed.",
            "ratio",
            f"⟨{dv}, {v}⟩/‖{v}‖²",
            T1,
        ),
        Column(
            f"orth_rel_{space}",
            METRIC,
            "Share of the shift across the dense vector.",
            "ratio",
            f"‖{dv}⊥‖/‖{v}‖",
            T1,
            minimum=0,
        ),
    )


def _t1(space: str) -> Column:
    return Column(
        f"t1_{space}",
        METRIC,
        f"Second-order estimate of one_minus_cos_{space}.",
        "1 - cosine",
        f"‖Δ{space}⊥‖²/(2‖{space}‖²)",
        T1,
        minimum=0,
    )


# What a column costs on top of the two head products (2·d·V operations a side), which are four fifths of a row's time
# on a CPU. Columns of one cost come out of the same pass; a pass is one read of V numbers in cache.
_IN_H = "d numbers in float64"
_IN_Z = "two passes over z and Δz"
_RANKED = "one pass over the logits a side, and one comparison a token for each rank"
_MOMENTS = "one pass a temperature, shared by all moments"
_SOFTMAX = "one exp a token, side and temperature"
_DIVERGED = "one exp and one logarithm a token and temperature, shared by all divergences"
_COSTS = {
    **dict.fromkeys(("norm_h", "norm_dh", "one_minus_cos_h", "par_rel_h", "orth_rel_h", "t1_h"), _IN_H),
    **dict.fromkeys(("norm_z", "norm_dz", "one_minus_cos_z", "par_rel_z", "orth_rel_z", "t1_z"), _IN_Z),
    "var_uniform_dz": _IN_Z,
    **dict.fromkeys(("var_r_dz", "t2_p", "var_p_dz", "t3_kl_nats", "kappa3_term_nats", "kappa4_term_nats"), _MOMENTS),
    **dict.fromkeys(
        (
            *("norm_dp", "one_minus_cos_p", "par_rel_p", "orth_rel_p"),
            *("kl_dense_pruned_nats", "kl_pruned_dense_nats", "js_nats", "total_variation"),
        ),
        _DIVERGED,
    ),
    **dict.fromkeys(("norm_p", "entropy_dense_nats", "entropy_pruned_nats", "identity_residual_nats"), _SOFTMAX),
    **dict.fromkeys(
        ("p_dense_top1_dense", "p_dense_top1_pruned", "p_pruned_top1_dense", "p_pruned_top1_pruned"), _SOFTMAX
    ),
    **dict.fromkeys(
        (
            *("is_top1_same", "topk5_overlap", "topk10_overlap", "rank_of_dense_top1", "rank_of_pruned_top1"),
            *("margin_dense", "margin_pruned"),
        ),
        _RANKED,
    ),
}

_DIVERGENCE: tuple[Column, ...] = (
    *_vector_space("h", "head input"),
    _t1("h"),
    *_vector_space("z", "logits"),
    _t1("z"),
    *_vector_space("p", "probabilities"),
    Column(
        "var_uniform_dz",
        METRIC,
        "Variance of the logit shift over the vocabulary, unweighted.",
        "logit²",
        "Var_u(Δz)",
        minimum=0,
    ),
    Column(
        "var_r_dz", METRIC, "Variance of the logit shift weighted by r = p²/‖p‖².", "logit²", "Var_r(Δz)", T2, minimum=0
    ),
    Column("t2_p", METRIC, "Second-order estimate of one_minus_cos_p.", "1 - cosine", "Var_r(Δz)/(2T²)", T2, minimum=0),
    Column(
        "var_p_dz", METRIC, "Variance of the logit shift weighted by the dense p.", "logit²", "Var_p(Δz)", T3, minimum=0
    ),
    Column(
        "t3_kl_nats", METRIC, "Second-order estimate of kl_dense_pruned_nats.", "nats", "Var_p(Δz)/(2T²)", T3, minimum=0
    ),
    Column(
        "kappa3_term_nats",
        METRIC,
        "Third-order term of kl_dense_pruned_nats beyond t3_kl_nats, signed.",
        "nats",
        "κ₃(Δz; p)/(6T³)",
        T3,
    ),
    Column(
        "kappa4_term_nats",
        METRIC,
        "Fourth-order term of kl_dense_pruned_nats, signed; small terms promise that the series has converged.",
        "nats",
        "κ₄(Δz; p)/(24T⁴)",
        T3,
    ),
    Column(
        "kl_dense_pruned_nats",
        METRIC,
        "Divergence, dense side first, summed over the vocabulary.",
        "nats",
        "KL(p‖q)",
        T3,
        minimum=0,
    ),
    Column(
        "kl_pruned_dense_nats",
        METRIC,
        "Divergence, pruned side first, summed over the vocabulary.",
        "nats",
        "KL(q‖p)",
        minimum=0,
    ),
    Column(
        "js_nats",
        METRIC,
        "Jensen–Shannon divergence.",
        "nats",
        "½KL(p‖m)+½KL(q‖m), m=(p+q)/2",
        minimum=0,
        maximum=0.693148,
    ),
    Column(
        "total_variation", METRIC, "Total variation distance.", "probability", "½Σ|p−q|", minimum=0, maximum=1.000001
    ),
    Column(
        "identity_residual_nats",
        METRIC,
        "What the exact identity leaves: KL summed token by token less its form by the normalisers of both sides. Zero "
        "in exact arithmetic, else the rounding of float32 logits: a health check.",
        "nats",
        "Σp log(p/q) − (log E_p[exp(Δz/T)] − E_p[Δz/T])",
        T3,
    ),
    Column("is_top1_same", pa.bool_(), "Whether both sides have the same most likely token (lowest id on ties)."),
    Column(
        "topk5_overlap",
        METRIC,
        "Share of the dense top 5 tokens that are in the pruned top 5.",
        "share",
        minimum=0,
        maximum=1,
    ),
    Column(
        "topk10_overlap",
        METRIC,
        "Share of the dense top 10 tokens that are in the pruned top 10.",
        "share",
        minimum=0,
        maximum=1,
    ),
    Column(
        "rank_of_dense_top1",
        pa.int32(),
        "Rank of the dense top token on the pruned side; 1 is first.",
        "rank",
        minimum=1,
    ),
    Column(
        "rank_of_pruned_top1",
        pa.int32(),
        "Rank of the pruned top token on the dense side; 1 is first.",
        "rank",
        minimum=1,
    ),
    Column(
        "p_dense_top1_dense",
        METRIC,
        "Dense probability of the dense top token.",
        "probability",
        minimum=0,
        maximum=1.000001,
    ),
    Column(
        "p_dense_top1_pruned",
        METRIC,
        "Pruned probability of the dense top token.",
        "probability",
        minimum=0,
        maximum=1.000001,
    ),
    Column(
        "p_pruned_top1_dense",
        METRIC,
        "Dense probability of the pruned top token.",
        "probability",
        minimum=0,
        maximum=1.000001,
    ),
    Column(
        "p_pruned_top1_pruned",
        METRIC,
        "Pruned probability of the pruned top token.",
        "probability",
        minimum=0,
        maximum=1.000001,
    ),
    Column("entropy_dense_nats", METRIC, "Entropy of the dense distribution.", "nats", "−Σp log p", minimum=0),
    Column("entropy_pruned_nats", METRIC, "Entropy of the pruned distribution.", "nats", "−Σq log q", minimum=0),
    Column(
        "margin_dense", METRIC, "Dense logit of the output's first token minus that of its second.", "logit", minimum=0
    ),
    Column(
        "margin_pruned",
        METRIC,
        "Pruned logit of the output's first token minus that of its second.",
        "logit",
        minimum=0,
    ),
)

DIVERGENCE: tuple[Column, ...] = tuple(column.but(cost=_COSTS[column.name]) for column in _DIVERGENCE)
# The first versions of the tables of prompts did not have these.
_LATER = (
    *("kappa3_term_nats", "kappa4_term_nats", "identity_residual_nats"),
    *("topk10_overlap", "p_pruned_top1_dense", "p_pruned_top1_pruned"),
)
DIVERGENCE_SINCE_2: tuple[Column, ...] = tuple(
    column.but(since=2) if column.name in _LATER else column for column in DIVERGENCE
)
DIVERGENCE_BY_LENS: tuple[Column, ...] = tuple(
    column.but(
        doc=f"{side} logit of the first token minus that of the second, as the lens reads the stream at this place; "
        "the margin of the model's output is in decoding_steps."
    )
    if (side := {"margin_dense": "Dense", "margin_pruned": "Pruned"}.get(column.name))
    else column
    for column in DIVERGENCE_SINCE_2
)
DIVERGENCE_NAMES: tuple[str, ...] = tuple(column.name for column in DIVERGENCE)

DIVERGENCE_INVARIANTS: tuple[Invariant, ...] = (
    # Pinsker: total variation is bounded by either divergence; the slack is float32 rounding.
    Invariant("pinsker_dense_pruned", "total_variation <= sqrt(kl_dense_pruned_nats / 2) * 1.001 + 1e-6"),
    Invariant("pinsker_pruned_dense", "total_variation <= sqrt(kl_pruned_dense_nats / 2) * 1.001 + 1e-6"),
    Invariant("same_top1_ranks_first", "is_top1_same = (rank_of_dense_top1 = 1)"),
    Invariant(
        "t3_is_half_variance", "abs(t3_kl_nats - var_p_dz / (2 * temperature ** 2)) <= 1e-4 * t3_kl_nats + 1e-30"
    ),
    Invariant("t2_is_half_variance", "abs(t2_p - var_r_dz / (2 * temperature ** 2)) <= 1e-4 * t2_p + 1e-30"),
    Invariant(
        "dense_is_dense", "recipe != 'dense' or (kl_dense_pruned_nats = 0 and norm_dh = 0 and total_variation = 0)"
    ),
)
