"""Rows of the tables of scores, speed and masks for the generated study.

`tests.benchmarks.warehouse_rows` uses them.
"""

import numpy as np

from prunescope.warehouse.tables.columns import RETRIEVAL_METRICS as METRICS
from prunescope.warehouse.tables.mask_samples import MAX_SAMPLED

Given = dict[str, object]

TASKS = {"arc_challenge": "non_generative", "gsm8k": "generative", "wikitext": "perplexity"}
SAMPLES = 100
MODULES = {"attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


def published(model: str) -> Given:
    """Return rows of `paper_reference`: one task at every number of dropped sublayers."""
    dropped = list(range(13))
    return {
        "model": [model] * 13,
        "source": ["2603.24652 Figure 1"] * 13,
        "method": ["dense", *["attn-drop"] * 12],
        "dropped": dropped,
        "task": ["gsm8k"] * 13,
        "metric": ["exact_match"] * 13,
        "layer": [-1] * 13,
        "value": [0.75 - 0.05 * count for count in dropped],
    }


def scores(model: str, recipe: str, strength: float, rng: np.random.Generator) -> dict[str, Given]:
    """Return rows of `task_scores`, `task_samples`, `retrieval_scores` and `speed` of one variant."""
    loss = min(strength / 5, 0.9)
    value = {"non_generative": 0.7 - loss / 5, "generative": 0.75 * (1 - loss), "perplexity": 9.0 * (1 + strength)}
    whose = {"model": model, "recipe": recipe}
    accuracy = rng.random(SAMPLES) > 0.3 + loss / 2
    return {
        "task_scores": _rows(
            len(TASKS),
            **whose,
            task=list(TASKS),
            metric=["accuracy", "exact_match", "word_perplexity"],
            kind=list(TASKS.values()),
            value=[value[kind] for kind in TASKS.values()],
            standard_error=0.04,
            n=SAMPLES,
            is_higher_better=[kind != "perplexity" for kind in TASKS.values()],
        ),
        "task_samples": _rows(
            SAMPLES,
            **whose,
            task="arc_challenge",
            sample_id=[f"{index:04d}" for index in range(SAMPLES)],
            sample_hash=[f"hash {index}" for index in range(SAMPLES)],
            scoring="letter",
            question="a question of some length " * 8,
            target="A",
            answer=["A" if right else "B" for right in accuracy],
            is_correct=accuracy,
            option_log_likelihoods=(-rng.exponential(3, (SAMPLES, 4))).tolist(),
            option_log_likelihoods_per_byte=(-rng.exponential(1, (SAMPLES, 4))).tolist(),
            target_index=0,
        ),
        "retrieval_scores": _rows(
            len(METRICS), **whose, data_set="scifact", metric=list(METRICS), value=0.7 * (1 - loss / 10), n=300
        ),
        "speed": _rows(
            4,
            **whose,
            batch=[1, 1, 8, 8],
            length=[128, 1024, 128, 1024],
            new_tokens=32,
            **dict.fromkeys(("prefill_tokens_per_second", "prefill_tokens_per_second_dense"), 900.0),
            **dict.fromkeys(("decode_tokens_per_second", "decode_tokens_per_second_dense"), 45.0),
        ),
    }


def masks(model: str, recipe: str, layers: list[int], rng: np.random.Generator) -> Given:
    """Return rows of `mask_samples`: half of the weights of every matrix of these layers kept."""
    places = [(layer, sublayer, module) for layer in layers for sublayer in MODULES for module in MODULES[sublayer]]
    return _rows(
        len(places),
        model=model,
        recipe=recipe,
        layer=[place[0] for place in places],
        sublayer=[place[1] for place in places],
        module=[f"layers.{layer}.{sublayer}.{module}" for layer, sublayer, module in places],
        weights=3584 * 3584,
        sampled=MAX_SAMPLED,
        kept_bits=[rng.bytes(MAX_SAMPLED // 8) for _ in places],
    )


def _rows(count: int, **columns: object) -> Given:
    """Return columns of the table's length; a value that is no sequence of that length is repeated in every row."""
    return {
        name: value if isinstance(value, (list, np.ndarray)) else [value] * count for name, value in columns.items()
    }
