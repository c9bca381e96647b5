"""Rows of a generated study: published means by layer, skewed divergences, identities that hold.

Rows of one variant at a time; `tests.benchmarks.warehouse` measures with them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from prunescope.warehouse.schema.table import Column, Table
from prunescope.warehouse.tables import TABLES
from tests.benchmarks import warehouse_scores

# 1 − cos of h, z and p by layer, attention and MLP dropped one by one (2603.24652, figure 4, Qwen2.5-7B).
PUBLISHED = {
    ("attn", "h"): "837 64 36 39 33 30 43 22 28 42 24 20 20 23 21 20 16 13 23 28 17 23 18 18 12 14 13 62",
    ("attn", "z"): "930 13 7 5 5 4 5 2 3 5 2 1 2 1 1 1 1 1 1 1 1 1 1 .5 .5 .5 .5 1",
    ("attn", "p"): "55 4 6 10 30 35 119 16 27 112 33 29 38 23 31 20 14 15 25 27 34 36 28 40 27 23 56 100",
    ("mlp", "h"): "193 61 44 43 51 49 68 84 79 62 58 48 50 45 46 42 36 41 51 51 59 53 63 51 47 60 62 217",
    ("mlp", "z"): "45 18 14 9 8 6 5 8 11 4 3 3 3 3 2 2 2 2 2 2 2 2 2 2 1 1 2 24",
    ("mlp", "p"): "12 37 34 17 17 50 39 60 84 47 55 45 47 38 43 41 38 49 57 82 65 79 94 82 121 83 159 384",
}
LAYERS, STEPS, PROMPT_TOKENS, VOCABULARY = 28, 64, 40, 152_064
SCOPES, LENSES, SUBLAYERS = ("local", "isolated", "propagated"), ("raw", "normed"), ("attn", "mlp")
PROMPTS = (*(f"maths-{n}" for n in range(5)), *(f"open-{n}" for n in range(4)), *(f"choice-{n}" for n in range(3)))
ROWS_A_VARIANT = LAYERS * len(SUBLAYERS) * len(LENSES) * len(SCOPES) * len(PROMPTS) * STEPS
TEXT_TOKENS, WINDOW = 4096, 256
LARGEST_JS = np.float32(0.693147)

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """A recipe of the generated study.

    Attributes:
        name: its name.
        method: its method, noise included.
        strength: size of its shifts relative to the published figures; 0 for the dense model.
        dropped: every so many-th sublayer of its kind is changed; 1 for all of them, 0 for none.
        kind: the kind of sublayer that it changes; empty for both.
    """

    name: str
    method: str
    strength: float
    dropped: int
    kind: str = ""


# In the demo study's proportions: dense and noise, masks on all sublayers, drops of a few; half of all shifts are 0.
RECIPES = (
    Recipe("dense", "dense", 0, 0),
    Recipe("wanda-50", "wanda", 1, 1),
    Recipe("noise-bfloat16", "noise", 1e-5, 0),
    Recipe("attn-drop-4", "attn-drop", 1, 7, "attn"),
    Recipe("mlp-drop-4", "mlp-drop", 1, 7, "mlp"),
    Recipe("block-drop-4", "block-drop", 1, 7),
    Recipe("magnitude-50", "magnitude", 2, 1),
    Recipe("wanda-2of4", "wanda", 1.5, 1),
    Recipe("noise-batch", "noise", 1e-6, 0),
    Recipe("attn-drop-8", "attn-drop", 2, 4, "attn"),
    Recipe("mlp-drop-8", "mlp-drop", 2, 4, "mlp"),
    Recipe("sparsegpt-50", "sparsegpt", 0.8, 1),
)


def variants(rows: int) -> Iterator[tuple[str, Recipe]]:
    """Return the variants for so many rows of `layer_transitions`: all recipes of a model, then the next model."""
    for index in range(max(1, round(rows / ROWS_A_VARIANT))):
        yield f"bench/model-{index // len(RECIPES):03d}", RECIPES[index % len(RECIPES)]


def model_tables(model: str) -> dict[str, pl.DataFrame]:
    """Return the tables that are kept per model."""
    sizes = {"layers": LAYERS, "vocabulary": VOCABULARY, "parameters": 7_600_000_000, "dtype": "bfloat16"}
    units = [(layer, unit) for layer in range(LAYERS) for unit in ("attn", "mlp", "block")]
    return {
        "models": filled("models", {"model": [model], **{name: [value] for name, value in sizes.items()}}),
        "paper_reference": filled("paper_reference", warehouse_scores.published(model)),
        "block_influence": filled(
            "block_influence",
            {"model": [model] * len(units), "layer": [u[0] for u in units], "unit": [u[1] for u in units]},
        ),
    }


def variant_tables(model: str, recipe: Recipe) -> dict[str, pl.DataFrame]:
    """Return the tables that are kept per variant; columns of the dense side are equal for all recipes of a model."""
    dense = np.random.default_rng([ord(letter) for letter in model])
    own = np.random.default_rng([ord(letter) for letter in f"{model}@{recipe.name}"])
    frames = {
        "variants": _variant(model, recipe),
        "layer_transitions": _transitions(model, recipe, dense, own),
        "decoding_steps": _steps(model, recipe, dense, own),
        "generations": _generations(model, recipe, own),
        "top_tokens": _tops(model, recipe, dense, own),
        "option_subspace": _options(model, recipe, own),
        "text_tokens": _text(model, recipe, dense, own),
        **warehouse_scores.scores(model, recipe.name, recipe.strength, own),
    }
    if recipe.dropped == 1:
        frames["mask_samples"] = warehouse_scores.masks(model, recipe.name, list(range(LAYERS)), own)
    return {name: filled(name, frame) for name, frame in frames.items()}


def filled(name: str, given: Mapping[str, Any]) -> pl.DataFrame:
    """Return the columns, with all others of the table filled by values that its definition allows."""
    table: Table = TABLES[name]
    rows = len(next(iter(given.values())))
    return pl.DataFrame(
        {c.name: given[c.name] if c.name in given else pl.repeat(_default(c), rows, eager=True) for c in table.columns},
        strict=False,
    )


def _default(column: Column) -> object:
    if column.nullable or pa.types.is_list(column.type):
        return None if column.nullable else []
    if pa.types.is_boolean(column.type):
        return False
    if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
        return column.values[0] if column.values else column.name
    return column.minimum or 0


def _label(values: tuple[str, ...], each: int, times: int) -> pl.Series:
    """Repeat every value so often, and all of them so many times, as strings, as a study passes them."""
    return pl.Series(np.tile(np.repeat(np.arange(len(values)), each), times)).replace_strict(
        dict(enumerate(values)), return_dtype=pl.String
    )


def _transitions(model: str, recipe: Recipe, dense: np.random.Generator, own: np.random.Generator) -> Columns:
    """Return rows in the order of the engine: layer, sublayer, lens, scope, prompt, position."""
    tokens = len(PROMPTS) * STEPS
    shape = (LAYERS, len(SUBLAYERS), len(LENSES), len(SCOPES), tokens)
    rows = ROWS_A_VARIANT
    means = {
        space: np.array([PUBLISHED[sublayer, space].split() for sublayer in SUBLAYERS], np.float32).T / 1000
        for space in ("h", "z", "p")
    }
    grown = np.array([1, 1, 3], np.float32)  # the effect of all sublayers relative to that of one
    means = {
        space: np.broadcast_to(mean[:, :, None, None, None] * grown[:, None], shape).reshape(rows)
        for space, mean in means.items()
    }
    # The dense side does not depend on the scope, but the isolated one is measured at the output.
    sides = {
        name: np.concatenate(
            [
                values[..., :1, :],
                np.broadcast_to(values[-1:, -1:, :, :1], values[..., :1, :].shape),
                values[..., :1, :],
            ],
            axis=3,
        ).reshape(rows)
        for name, values in _dense_side(dense, (*shape[:3], 1, tokens)).items()
    }
    changed = np.zeros((LAYERS, len(SUBLAYERS)), bool)
    if recipe.dropped:
        changed[:: recipe.dropped, [not recipe.kind or recipe.kind == kind for kind in SUBLAYERS]] = True
    moved = np.broadcast_to(changed[:, :, None, None, None], shape).copy()
    moved[..., SCOPES.index("propagated"), :] = recipe.strength > 0
    position = np.tile(np.arange(STEPS, dtype=np.int32), rows // STEPS)
    return {
        "model": pl.repeat(model, rows, eager=True),
        "recipe": pl.repeat(recipe.name, rows, eager=True),
        "prompt_id": _label(PROMPTS, STEPS, rows // tokens),
        "position": position + PROMPT_TOKENS - 1,
        "step": position,
        "layer": np.repeat(np.arange(LAYERS, dtype=np.int16), rows // LAYERS),
        "sublayer": _label(SUBLAYERS, rows // LAYERS // 2, LAYERS),
        "scope": _label(SCOPES, tokens, rows // tokens // 3),
        "lens": _label(LENSES, 3 * tokens, LAYERS * 2),
        "temperature": np.ones(rows),
        "is_changed": np.repeat(changed.reshape(-1), rows // changed.size),
        **_divergence(own, sides, means, recipe.strength, moved.reshape(rows)),
    }


def _dense_side(rng: np.random.Generator, shape: tuple[int, ...]) -> Columns:
    """Return the columns that depend on the dense model alone."""
    noise = {name: rng.standard_normal(shape, np.float32) for name in ("h", "z", "p", "entropy", "margin")}
    top = 1 / (1 + np.exp(-1 - 1.5 * noise["p"]))
    return {
        "norm_h": np.exp(3 + noise["h"] * np.float32(0.5)),
        "norm_z": np.exp(7 + noise["z"] * np.float32(0.2)),
        "norm_p": np.sqrt(top) * np.float32(0.9),
        "p_dense_top1_dense": top,
        "entropy_dense_nats": np.exp(noise["entropy"]),
        "margin_dense": np.abs(noise["margin"]) * 3,
    }


def _divergence(
    rng: np.random.Generator, sides: Columns, means: Columns, strength: float, moved: np.ndarray
) -> Columns:
    """Return columns that depend on both sides; exactly zero, or those of the dense side, where nothing moved."""
    rows = len(moved)
    zero = np.float32(0)

    def noise(spread: float) -> np.ndarray:
        return rng.standard_normal(rows, np.float32) * np.float32(spread)

    def size(values: np.ndarray) -> np.ndarray:
        return np.where(moved, values, zero)

    # One token in common to all spaces, a heavy tail at the output.
    common = noise(0.8)
    found: Columns = dict(sides)
    for space in ("h", "z"):
        defect = means[space] * np.float32(strength or 1) * np.exp(common + noise(0.5) - np.float32(0.44))
        defect = size(np.minimum(defect, np.float32(1.9)))
        orthogonal = np.sqrt(2 * defect) * np.exp(noise(0.05))
        found |= {
            f"one_minus_cos_{space}": defect,
            f"orth_rel_{space}": orthogonal,
            f"t1_{space}": orthogonal**2 / 2,
            f"par_rel_{space}": size(orthogonal * noise(0.4)),
            f"norm_d{space}": orthogonal * sides[f"norm_{space}"] * size(np.exp(noise(0.1))),
        }
    defect = means["p"] * np.float32(strength or 1) * np.exp(common + noise(1.6) - np.float32(1.6))
    kl = size(defect * np.exp(noise(0.3)))
    reverse = kl * np.exp(noise(0.2))
    bound = np.sqrt(np.minimum(kl, reverse) / 2)
    variance, variance_r = 2 * kl * np.exp(noise(0.25)), 2 * defect * size(np.exp(noise(0.25)))
    ranks = [(1 + np.abs(noise(4)) * np.minimum(kl, 1e4)).astype(np.int32) for _ in range(2)]
    same = (ranks[0] == 1) | (ranks[1] == 1)
    first = [np.where(same, np.int32(1), np.maximum(rank, 2)) for rank in ranks]
    turn = size(noise(0.5) * np.minimum(bound, 1))
    pruned_top = np.clip(sides["p_dense_top1_dense"] * np.exp(turn), 0, 1)
    found |= {
        "one_minus_cos_p": size(np.minimum(defect, np.float32(1.9))),
        "norm_dp": bound * sides["norm_p"],
        "par_rel_p": turn * np.float32(0.3),
        "orth_rel_p": bound * np.exp(noise(0.1)),
        "var_uniform_dz": variance * np.exp(noise(0.5)),
        "var_r_dz": variance_r,
        "t2_p": variance_r / 2,
        "var_p_dz": variance,
        "t3_kl_nats": variance / 2,
        "var_rq_dz": variance_r * np.exp(noise(0.1)),
        "var_q_dz": variance * np.exp(noise(0.1)),
        "kappa3_term_nats": variance * noise(0.1),
        "kappa4_term_nats": variance * noise(0.03),
        "kl_dense_pruned_nats": kl,
        "kl_pruned_dense_nats": reverse,
        "js_nats": np.minimum(kl / 4 * np.exp(noise(0.05)), LARGEST_JS),
        "total_variation": np.minimum(bound * rng.random(rows, np.float32), np.float32(1)),
        "identity_residual_nats": size(noise(1e-7)),
        "is_top1_same": same,
        "topk5_overlap": np.round(5 / (1 + 2 * bound)).astype(np.float32) / 5,
        "topk10_overlap": np.round(10 / (1 + 2 * bound)).astype(np.float32) / 10,
        "rank_of_dense_top1": first[0],
        "rank_of_pruned_top1": first[1],
        "p_dense_top1_pruned": pruned_top,
        "p_pruned_top1_dense": np.where(same, sides["p_dense_top1_dense"], sides["p_dense_top1_dense"] / (1 + bound)),
        "p_pruned_top1_pruned": np.where(same, pruned_top, np.clip(pruned_top * np.exp(np.abs(turn)), 0, 1)),
        "entropy_pruned_nats": sides["entropy_dense_nats"] * np.exp(turn),
        "margin_pruned": sides["margin_dense"] * np.exp(-turn),
    }
    return found


def _output(dense: np.random.Generator, own: np.random.Generator, recipe: Recipe, rows: int) -> Columns:
    """Return divergence columns at the output, behind all sublayers."""
    means = {
        space: np.full(rows, float(PUBLISHED["mlp", space].split()[-1]) / 300, np.float32) for space in ("h", "z", "p")
    }
    moved = np.full(rows, recipe.strength > 0)
    return _divergence(own, _dense_side(dense, (rows,)), means, recipe.strength, moved)


def _steps(model: str, recipe: Recipe, dense: np.random.Generator, own: np.random.Generator) -> Columns:
    rows = 2 * len(PROMPTS) * STEPS
    found = _output(dense, own, recipe, rows)
    token = dense.zipf(1.3, rows).clip(max=VOCABULARY - 1).astype(np.int32)
    pruned = np.where(found["is_top1_same"], token, (token + 7) % VOCABULARY)
    step = np.tile(np.arange(STEPS, dtype=np.int32), rows // STEPS)
    return {
        **_whose(model, recipe, rows),
        "prompt_id": _label(PROMPTS, STEPS, 2),
        "trajectory": _label(("teacher_forced", "free_running"), rows // 2, 1),
        "step": step,
        "position": step + PROMPT_TOKENS - 1,
        "temperature": np.ones(rows),
        "token_id_dense": token,
        "token_id_pruned": pruned,
        "token_text_dense": pl.Series(token).cast(pl.String),
        "token_text_pruned": pl.Series(pruned).cast(pl.String),
        **found,
    }


def _generations(model: str, recipe: Recipe, own: np.random.Generator) -> Columns:
    flips = own.integers(0, STEPS, len(PROMPTS)) if recipe.strength > 1e-3 else [None] * len(PROMPTS)
    return {
        **_whose(model, recipe, len(PROMPTS)),
        "prompt_id": list(PROMPTS),
        "kind": [prompt.partition("-")[0] for prompt in PROMPTS],
        "token_ids": [own.integers(0, VOCABULARY, STEPS).tolist() for _ in PROMPTS],
        "text": ["a text of some length " * 10] * len(PROMPTS),
        "first_flip_step": flips,
        "answer_end_step": own.integers(STEPS // 2, STEPS, len(PROMPTS)),
        "is_correct": own.random(len(PROMPTS)) > 0.5,
        "gold": ["A"] * len(PROMPTS),
    }


def _tops(model: str, recipe: Recipe, dense: np.random.Generator, own: np.random.Generator) -> Columns:
    ranks, sides = 5, 2
    rows = 2 * len(PROMPTS) * STEPS * sides * ranks
    token = dense.zipf(1.3, rows).clip(max=VOCABULARY - 1).astype(np.int32)
    return {
        **_whose(model, recipe, rows),
        "prompt_id": _label(PROMPTS, STEPS * sides * ranks, 2),
        "trajectory": _label(("teacher_forced", "free_running"), rows // 2, 1),
        "step": np.tile(np.repeat(np.arange(STEPS, dtype=np.int32), sides * ranks), 2 * len(PROMPTS)),
        "side": _label(("dense", "pruned"), ranks, rows // sides // ranks),
        "rank": np.tile(np.arange(1, ranks + 1, dtype=np.int16), rows // ranks),
        "token_id": token,
        "token_text": pl.Series(token).cast(pl.String),
        **{f"logit_{side}": own.standard_normal(rows, np.float32) for side in ("dense", "pruned")},
        **{f"probability_{side}": own.random(rows, np.float32) for side in ("dense", "pruned")},
    }


def _options(model: str, recipe: Recipe, own: np.random.Generator) -> Columns:
    rows, options = 3, 4
    moved = recipe.strength > 0
    lists = ("logits", "p_full", "p_options")
    return {
        **_whose(model, recipe, rows),
        "prompt_id": [prompt for prompt in PROMPTS if prompt.startswith("choice")],
        "temperature": np.ones(rows),
        "options": [list("ABCD")] * rows,
        "option_token_ids": [[1, 2, 3, 4]] * rows,
        "is_argmax_same": own.random(rows) > 0.3 if moved else np.ones(rows, bool),
        "kendall_tau": own.random(rows, np.float32) if moved else np.ones(rows, np.float32),
        **{f"{n}_{side}": own.random((rows, options)).tolist() for n in lists for side in ("dense", "pruned")},
        **{f"rank_{side}": own.integers(1, 99, (rows, options)).tolist() for side in ("dense", "pruned")},
        "kl_options_dense_pruned_nats": own.random(rows) * moved,
        "kl_dense_pruned_nats": own.random(rows) * moved,
    }


def _text(model: str, recipe: Recipe, dense: np.random.Generator, own: np.random.Generator) -> Columns:
    log_p = -dense.exponential(2.5, TEXT_TOKENS).astype(np.float32)
    found = _output(dense, own, recipe, TEXT_TOKENS)
    position = np.arange(1, TEXT_TOKENS + 1, dtype=np.int32)
    moved = log_p * np.exp(own.standard_normal(TEXT_TOKENS, np.float32) / 10)
    return {
        **_whose(model, recipe, TEXT_TOKENS),
        "text_id": pl.repeat("wikitext", TEXT_TOKENS, eager=True),
        "context": np.full(TEXT_TOKENS, 2 * WINDOW),
        "stride": np.full(TEXT_TOKENS, WINDOW),
        "window_id": (position - 1) // WINDOW,
        "position": position,
        "token_id": dense.integers(0, VOCABULARY, TEXT_TOKENS),
        "log_p_target_dense": log_p,
        "log_p_target_pruned": moved if recipe.strength else log_p,
        **{name: values for name, values in found.items() if name in TABLES["text_tokens"].arrow().names},
    }


def _variant(model: str, recipe: Recipe) -> dict[str, list[object]]:
    share = 0.2 * recipe.strength if recipe.method != "noise" else 0.0
    return {
        "model": [model],
        "recipe": [recipe.name],
        "method": [recipe.method],
        "parameters_json": ["{}"],
        "sparsity": [min(share, 1.0)],
        "parameters_removed_share": [min(share, 1.0)],
    }


def _whose(model: str, recipe: Recipe, rows: int) -> dict[str, pl.Series]:
    return {name: pl.repeat(value, rows, eager=True) for name, value in (("model", model), ("recipe", recipe.name))}
