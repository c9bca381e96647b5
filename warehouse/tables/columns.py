"""Columns that several tables share; one quantity has one name, unit and formula everywhere."""

from dataclasses import replace
from functools import partial

import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Invariant

# One constructor per type, such as `text("name", "Meaning.")`. Integers are counts or indices, at least 0 by default.
label = partial(Column, pa.dictionary(pa.int32(), pa.string()))
text = partial(Column, pa.string())
texts = partial(Column, pa.list_(pa.string()))
flag = partial(Column, pa.bool_())
int16 = partial(Column, pa.int16(), minimum=0)
int32 = partial(Column, pa.int32(), minimum=0)
int64 = partial(Column, pa.int64(), minimum=0)
float64 = partial(Column, pa.float64())
metric = partial(Column, pa.float32())
floats = partial(Column, pa.list_(pa.float32()))
integers = partial(Column, pa.list_(pa.int32()))
amount = partial(metric, minimum=0)
share = partial(metric, unit="share", minimum=0, maximum=1)
standard_error = partial(float64, "standard_error", nullable=True, minimum=0)
rank = partial(int32, unit="rank", minimum=1)
# The excess over the largest value is float32 rounding.
probability = partial(amount, unit="probability", maximum=1.000001)
cosine_defect = partial(amount, unit="1 - cosine", maximum=2.000001)


def interval(name: str, mean: str) -> tuple[Column, Column]:
    """Return both ends of the 95 % interval of a mean over items; it needs at least two items."""
    return tuple(
        metric(
            f"{name}_{end}",
            f"{side} end of the 95 % interval of {mean}, by Student's t over items; NULL if it is not known.",
            "nats",
            nullable=True,
        )
        for end, side in (("low", "Lower"), ("high", "Upper"))
    )  # type: ignore[return-value]


MODEL = label("model", "Name of the dense model.")
RECIPE = label("recipe", "Name of the recipe; `dense` is the unpruned model.")
PROMPT_ID = label("prompt_id", "Name of the prompt in its study.")
VARIANT = (MODEL, RECIPE)
PROMPT = (*VARIANT, PROMPT_ID)
POSITION = int32("position", "Token index in the sequence, prompt included, from 0.")
STEP = int32("step", "Generated token that this position predicts, from 0. The last prompt token predicts step 0.")
SAMPLE = int32("sample", "Number of the sampled text, from 0.")
LAYER = int16("layer", "Decoder layer, from 0.")
SUBLAYER = label("sublayer", "Part of the layer.", values=("attn", "mlp"))
SEARCH = label(
    "search",
    "Id of the search: the first 8 hexadecimal digits of a hash of model, calibration, items, menu, objective, budget, "
    "controls, number of trials and seed.",
)
SECONDS = metric("seconds", "Time to compute the row.", "s", minimum=0, is_timing=True)
SCOPE = label(
    "scope",
    "`local`: one sublayer swapped in a dense context, measured right after it. `isolated`: one sublayer swapped, the "
    "remaining dense layers run on top, measured at the output. `propagated`: the whole pruned model on the same "
    "tokens. `restored`: the pruned model with one changed sublayer dense again, measured at the output.",
    values=("local", "isolated", "propagated", "restored"),
)
LENS = label(
    "lens",
    "Input of the LM head: `raw` is the residual stream, `normed` the residual stream after the final norm. It applies "
    "to h, z and p of the row.",
    source="nostalgebraist 2020, the logit lens; raw: 2603.24652 §3",
    values=("raw", "normed"),
)
TEMPERATURE = float64("temperature", "Temperature T of the softmax.", minimum=1e-6)
TRAJECTORY = label(
    "trajectory",
    "`teacher_forced`: both models read the dense model's text. `own_text`: both read the variant's text. `fork`: the "
    "dense model on its text is compared with the dense model on the text that it writes after taking the variant's "
    "token at the first flip. `free_running`: each model reads its own text. After the flip, both texts and models "
    "differ; `fork` shows the effect of the texts alone.",
    source="exposure bias: 1511.06732, 2204.01171; texts of the changed model: 2306.13649",
    values=("teacher_forced", "own_text", "fork", "free_running"),
)

TASK = label("task", "Name of the task.")
TASK_METRICS: dict[str, str] = {
    "accuracy": "the option whose whole text has the largest summed log-likelihood is correct",
    "accuracy_per_byte": "the same with log-likelihoods divided by the options' bytes (by their characters if the "
    "task in the harness has only acc_norm)",
    "accuracy_letter": "the most likely option label is correct",
    "exact_match": "the answer is correct, extracted strictly from the text in the form of the examples",
    "exact_match_lenient": "the same with lenient extraction",
    "pass_at_1": "the generated program passes its tests",
    "f1": "overlap of the generated words with those of the correct answer",
    "agreement": "the answer equals the dense model's, over the samples that the dense model answers; answers are "
    "options compared by their whole texts (by letters if a task has no other scoring), or extracted leniently from "
    "generated text",
    "word_perplexity": "perplexity per word, as the harness counts words",
    "byte_perplexity": "perplexity per byte of UTF-8",
    "token_perplexity": "perplexity per token",
}
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "token_perplexity")
# Prefix of all other metrics of the harness, which keep their names.
OTHER_METRICS = "lm_eval/"
TASK_METRIC = label(
    "metric",
    f"Name of the metric. {'; '.join(f'`{name}`: {doc}' for name, doc in TASK_METRICS.items())}. `{OTHER_METRICS}NAME` "
    "is any other metric of the harness under its own name.",
)
TASK_HASH = text("task_hash", "SHA-256 of the task: its samples, prompts, shots and scoring.")

DATA_SET = label("data_set", "Name of the retrieval data set.")
RETRIEVAL_METRICS = ("ndcg_at_10", "recall_at_100", "mrr_at_10", "embedding_cosine")
RETRIEVAL_VALUE = float64("value", "The score; a cosine may be negative.", "share", minimum=-1, maximum=1)
ONLY_COSINES_ARE_NEGATIVE = Invariant("only_a_cosine_is_negative", "metric = 'embedding_cosine' or value >= 0")
DATA_HASH = text(
    "data_hash",
    "SHA-256 of corpus, queries and judgements, and of truncation, prefix and pooling. Two scores are comparable only "
    "if their hashes are equal.",
)

T1, T2, T3 = "2603.24652 Theorem 1", "2603.24652 Theorem 2", "2603.24652 Theorem 3"


def _vector_space(space: str, what: str) -> tuple[Column, ...]:
    """Return the geometry of one space: norms, cosine defect, parallel and orthogonal parts."""
    v, dv = space, f"Δ{space}"
    return (
        amount(f"norm_{space}", f"Length of the dense {what}.", "2-norm", f"‖{v}‖"),
        amount(f"norm_d{space}", f"Length of the shift of the {what}.", "2-norm", f"‖{dv}‖"),
        cosine_defect(
            f"one_minus_cos_{space}",
            f"Cosine defect between dense and pruned {what}, computed without cancellation.",
            formula=f"1 − cos({v}, {v}+{dv})",
            source=T1,
        ),
        metric(
            f"par_rel_{space}",
            "Component of the shift along the dense vector, relative to its length, signed.",
            "ratio",
            f"⟨{dv}, {v}⟩/‖{v}‖²",
            T1,
        ),
        amount(
            f"orth_rel_{space}",
            "Component of the shift orthogonal to the dense vector, relative to its length.",
            "ratio",
            f"‖{dv}⊥‖/‖{v}‖",
            T1,
        ),
    )


def _t1(space: str) -> Column:
    doc = f"Second-order estimate of one_minus_cos_{space}."
    return amount(f"t1_{space}", doc, "1 - cosine", f"‖Δ{space}⊥‖²/(2‖{space}‖²)", T1)


# Measured against float64 on part of the demo.
_NEAR_TIES = (
    "A difference of float32 logits, exact to about 4e-5. At near ties its relative error reaches 1.5e-3 under lens "
    "raw and 1e-2 under normed."
)
# `since` is a version of the prompt tables; the others have only columns from their beginning.
_DIVERGENCE: tuple[Column, ...] = (
    *_vector_space("h", "head input"),
    _t1("h"),
    *_vector_space("z", "logits"),
    _t1("z"),
    *_vector_space("p", "probabilities"),
    amount("var_uniform_dz", "Variance of the logit shift over the vocabulary, unweighted.", "logit²", "Var_u(Δz)"),
    amount("var_r_dz", "Variance of the logit shift weighted by r = p²/‖p‖².", "logit²", "Var_r(Δz)", T2),
    amount("t2_p", "Second-order estimate of one_minus_cos_p.", "1 - cosine", "Var_r(Δz)/(2T²)", T2),
    amount("var_p_dz", "Variance of the logit shift weighted by the dense p.", "logit²", "Var_p(Δz)", T3),
    amount("t3_kl_nats", "Second-order estimate of kl_dense_pruned_nats.", "nats", "Var_p(Δz)/(2T²)", T3),
    amount(
        "var_rq_dz",
        "Variance of the logit shift weighted by q²/‖q‖² of the pruned q, as in the paper's published script.",
        "logit²",
        "Var_rq(Δz), rq = q²/‖q‖²",
        since=3,
    ),
    amount(
        "var_q_dz",
        "Variance of the logit shift weighted by the pruned q, as in the paper's published script.",
        "logit²",
        "Var_q(Δz)",
        since=3,
    ),
    metric(
        "kappa3_term_nats",
        "Third-order term of kl_dense_pruned_nats beyond t3_kl_nats, signed.",
        "nats",
        "κ₃(Δz; p)/(6T³)",
        T3,
        since=2,
    ),
    metric(
        "kappa4_term_nats",
        "Fourth-order term of kl_dense_pruned_nats, signed; small terms suggest that the series has converged.",
        "nats",
        "κ₄(Δz; p)/(24T⁴)",
        T3,
        since=2,
    ),
    amount(
        "kl_dense_pruned_nats", "KL divergence, dense side first, summed over the vocabulary.", "nats", "KL(p‖q)", T3
    ),
    amount("kl_pruned_dense_nats", "KL divergence, pruned side first, summed over the vocabulary.", "nats", "KL(q‖p)"),
    amount("js_nats", "Jensen–Shannon divergence.", "nats", "½KL(p‖m)+½KL(q‖m), m=(p+q)/2", maximum=0.693148),
    amount(
        "total_variation",
        "Total variation distance: 1 minus the expected acceptance rate of speculative sampling.",
        "probability",
        "½Σ|p−q|",
        "2211.17192 Theorem 3.5; 2302.01318",
        maximum=1.000001,
    ),
    metric(
        "identity_residual_nats",
        "Health check: KL summed token by token minus KL from the normalisers of both sides. In exact arithmetic it is "
        "zero, so it shows the rounding of float32 logits.",
        "nats",
        "Σp log(p/q) − (log E_p[exp(Δz/T)] − E_p[Δz/T])",
        T3,
        since=2,
    ),
    flag("is_top1_same", "Whether both sides have the same most likely token (lowest id on ties)."),
    share("topk5_overlap", "Share of the dense top 5 tokens that are in the pruned top 5."),
    share("topk10_overlap", "Share of the dense top 10 tokens that are in the pruned top 10.", since=2),
    rank("rank_of_dense_top1", "Rank of the dense top token on the pruned side; 1 is first."),
    rank("rank_of_pruned_top1", "Rank of the pruned top token on the dense side; 1 is first."),
    probability("p_dense_top1_dense", "Dense probability of the dense top token."),
    probability("p_dense_top1_pruned", "Pruned probability of the dense top token."),
    probability("p_pruned_top1_dense", "Dense probability of the pruned top token.", since=2),
    probability("p_pruned_top1_pruned", "Pruned probability of the pruned top token.", since=2),
    amount("entropy_dense_nats", "Entropy of the dense distribution.", "nats", "−Σp log p"),
    amount("entropy_pruned_nats", "Entropy of the pruned distribution.", "nats", "−Σq log q"),
    amount("margin_dense", f"Dense logit of the most likely token minus that of the second. {_NEAR_TIES}", "logit"),
    amount("margin_pruned", f"Pruned logit of the most likely token minus that of the second. {_NEAR_TIES}", "logit"),
)
# Cost of a column in addition to the two products with the head (2·d·V operations per side), which take four fifths of
# a row's time on a CPU. Columns with the same cost come from the same pass, which reads V numbers in cache once.
_COSTS = {
    name: cost
    for cost, names in {
        "d numbers in float64": "norm_h norm_dh one_minus_cos_h par_rel_h orth_rel_h t1_h",
        "two passes over z and Δz": "norm_z norm_dz one_minus_cos_z par_rel_z orth_rel_z t1_z var_uniform_dz",
        "one pass per temperature, shared by all moments": (
            "var_r_dz t2_p var_p_dz t3_kl_nats var_rq_dz var_q_dz kappa3_term_nats kappa4_term_nats"
        ),
        "one exp and one logarithm per token and temperature, shared by all divergences": (
            "norm_dp one_minus_cos_p par_rel_p orth_rel_p "
            "kl_dense_pruned_nats kl_pruned_dense_nats js_nats total_variation"
        ),
        "one exp per token, side and temperature": (
            "norm_p entropy_dense_nats entropy_pruned_nats identity_residual_nats "
            "p_dense_top1_dense p_dense_top1_pruned p_pruned_top1_dense p_pruned_top1_pruned"
        ),
        "one pass over the logits per side, and one comparison per token for each rank": (
            "is_top1_same topk5_overlap topk10_overlap rank_of_dense_top1 rank_of_pruned_top1 "
            "margin_dense margin_pruned"
        ),
    }.items()
    for name in names.split()
}

DIVERGENCE: tuple[Column, ...] = tuple(replace(column, cost=_COSTS[column.name]) for column in _DIVERGENCE)
DIVERGENCE_BY_LENS: tuple[Column, ...] = tuple(
    replace(
        column,
        doc=f"{side} logit of the most likely token minus that of the second, as the lens reads the stream after this "
        f"sublayer. The margin of the model's output is in decoding_steps. {_NEAR_TIES}",
    )
    if (side := {"margin_dense": "Dense", "margin_pruned": "Pruned"}.get(column.name))
    else column
    for column in DIVERGENCE
)

DIVERGENCE_INVARIANTS: tuple[Invariant, ...] = (
    # Pinsker: either divergence bounds the total variation; the tolerance is float32 rounding.
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
