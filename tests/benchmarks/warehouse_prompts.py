"""A generated study of many prompts: `python -m tests.benchmarks.warehouse_prompts FOLDER [PROMPTS [VARIANTS]]`.

By default 300 prompts × 30 pruned variants, the dense model and a noise floor. Texts end at the dense model's end,
after different numbers of steps; the layers of four prompts of each kind are measured, of all others only the output.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.benchmarks import warehouse_rows as rows
from tests.benchmarks import warehouse_scores
from tests.benchmarks.warehouse import provenance

MODEL, KINDS = "bench/many-prompts", ("maths", "open", "choice")
LAYERED_OF_KIND, MOST_STEPS, RANKS = 4, 64, 10
SCOPES, LENSES = ("local", "propagated"), ("raw", "normed")
METHODS = ("wanda", "magnitude", "sparsegpt", "attn-drop", "mlp-drop")
HOSTILE = (
    "<script>alert(1)</script> & <img src=x onerror=alert(2)> ' \" `",
    "\u202eright to left\u202c, combining a\u0301\u0302\u0303, a zero\u200bwidth space, \U0001f9d1, \x1b[31mred",
    "a very long prompt " * 1_000,
    "x" * 5_000,
)
_WORDS = np.array(
    [f" {'bcdfghjklm'[n % 10]}{'aeiou'[n // 10 % 5]}{'nprstvwz'[n // 50 % 8]}{n // 400 or ''}" for n in range(4000)]
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of the generated study; `difficulty` scales every divergence."""

    name: str
    kind: str
    text: str
    steps: int
    difficulty: float


def prompts(count: int) -> list[Prompt]:
    """Return the prompts, kind by kind; the first of each kind have hostile texts, and one an id of that sort."""
    rng = np.random.default_rng(0)
    made = []
    for at in range(count):
        kind, number = KINDS[at * len(KINDS) // count], at % max(1, count // len(KINDS))
        steps = int(rng.integers(2, 12)) if kind == "choice" else int(rng.integers(12, MOST_STEPS + 1))
        text = HOSTILE[number] if number < len(HOSTILE) else _text(rng, int(rng.integers(12, 90)))
        name = f"{kind}-{number:03d}" if at != 1 else "maths/<b>001</b> é ’%"
        made.append(Prompt(name, kind, text, steps, float(np.exp(rng.standard_normal()))))
    return made


def recipes(count: int) -> list[rows.Recipe]:
    """Return the dense model, a noise floor, and so many pruned variants of growing strength."""
    found = [rows.Recipe("dense", "dense", 0, 0), rows.Recipe("noise-bfloat16", "noise", 1e-5, 0)]
    for at in range(count):
        method = METHODS[at % len(METHODS)]
        kind = method.split("-")[0] if method.endswith("drop") else ""
        found.append(
            rows.Recipe(f"{method}-{20 + at // len(METHODS) * 10}", method, 0.02 * 1.22**at, 7 if kind else 1, kind)
        )
    return found


def variant_tables(recipe: rows.Recipe, asked: Sequence[Prompt]) -> dict[str, pl.DataFrame]:
    """Return the tables of one variant."""
    dense = np.random.default_rng(1)
    own = np.random.default_rng([ord(letter) for letter in recipe.name])
    steps = _steps(recipe, asked, dense, own)
    choices = [prompt for prompt in asked if prompt.kind == "choice"]
    layered = [p for kind in KINDS for p in [p for p in asked if p.kind == kind][-LAYERED_OF_KIND:]]
    frames: dict[str, Mapping[str, Any]] = {
        "variants": rows._variant(MODEL, recipe),
        "layer_transitions": _transitions(recipe, layered, dense, own),
        "decoding_steps": steps,
        "generations": _generations(recipe, asked, steps, own),
        "top_tokens": _tops(recipe, steps, dense, own),
        "option_subspace": _options(recipe, choices, own),
        "text_tokens": rows._text(MODEL, recipe, dense, own),
        **warehouse_scores.scores(MODEL, recipe.name, recipe.strength, own),
    }
    return {name: rows.filled(name, frame) for name, frame in frames.items()}


def write(root: Path, count: int = 300, variants: int = 30) -> None:
    """Write the warehouse.

    Raises:
        RuntimeError: rows break a check of their table.
    """
    asked = prompts(count)
    store = Store(root)
    for recipe in recipes(variants):
        frames = variant_tables(recipe, asked) | (rows.model_tables(MODEL) if recipe.name == "dense" else {})
        for name, frame in frames.items():
            of = None if TABLES[name].partitioning == "model" else recipe.name
            written = store.write(TABLES[name], frame, provenance(MODEL, of), MODEL, of)
            if written.violations:
                raise RuntimeError(f"{name} of {recipe.name}: {written.violations[0]}")


def _text(rng: np.random.Generator, words: int) -> str:
    return "".join(_WORDS[rng.zipf(1.3, words).clip(max=len(_WORDS)) - 1]).strip()


def _steps(
    recipe: rows.Recipe, asked: Sequence[Prompt], dense: np.random.Generator, own: np.random.Generator
) -> dict[str, Any]:
    """Return teacher-forced, then free-running steps: the free text is the dense one up to its first flip."""
    lengths = [prompt.steps for prompt in asked]
    forced = sum(lengths)
    count = 2 * forced
    difficulty = np.tile(np.repeat([prompt.difficulty for prompt in asked], lengths), 2).astype(np.float32)
    means = {space: difficulty * np.float32(0.4) for space in ("h", "z", "p")}
    found = rows._divergence(
        own, rows._dense_side(dense, (count,)), means, recipe.strength, np.full(count, recipe.strength > 0)
    )
    step = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths] * 2)
    token = np.tile(dense.zipf(1.3, forced).clip(max=len(_WORDS)) - 1, 2).astype(np.int32)
    pruned = np.where(found["is_top1_same"], token, (token + 7) % len(_WORDS)).astype(np.int32)
    for start, length in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True):
        part, free = slice(start, start + length), slice(forced + start, forced + start + length)
        different = np.flatnonzero(pruned[part] != token[part])
        pruned[free] = pruned[part]
        if len(different):
            after = slice(free.start + different[0] + 1, free.stop)
            pruned[after] = own.integers(0, len(_WORDS), after.stop - after.start)
    return {
        **rows._whose(MODEL, recipe, count),
        "prompt_id": pl.Series([prompt.name for prompt in asked for _ in range(prompt.steps)] * 2),
        "trajectory": rows._label(("teacher_forced", "free_running"), forced, 1),
        "step": step,
        "position": step + rows.PROMPT_TOKENS - 1,
        "temperature": np.ones(count),
        "token_id_dense": token,
        "token_id_pruned": pruned,
        "token_text_dense": pl.Series(_WORDS[token]),
        "token_text_pruned": pl.Series(_WORDS[pruned]),
        **found,
    }


def _generations(
    recipe: rows.Recipe, asked: Sequence[Prompt], steps: Mapping[str, Any], own: np.random.Generator
) -> dict[str, Any]:
    half = sum(prompt.steps for prompt in asked)
    texts, tokens, flips, collapses = [], [], [], []
    start = 0
    for prompt in asked:
        part = slice(half + start, half + start + prompt.steps)
        start += prompt.steps
        words = steps["token_id_pruned"][part]
        different = np.flatnonzero(words != steps["token_id_dense"][part])
        tokens.append(words.tolist())
        texts.append("".join(_WORDS[words]))
        flips.append(int(different[0]) if len(different) else None)
        loops = len(different) and different[0] + 8 < prompt.steps and own.random() < min(recipe.strength / 4, 0.8)
        collapses.append(int(different[0]) + 8 if loops else None)
    graded = [prompt.kind != "open" for prompt in asked]
    right = own.random(len(asked)) < 0.5 / (1 + recipe.strength)
    return {
        **rows._whose(MODEL, recipe, len(asked)),
        "prompt_id": [prompt.name for prompt in asked],
        "kind": [prompt.kind for prompt in asked],
        "prompt_text": [prompt.text for prompt in asked],
        "text": texts,
        "token_ids": tokens,
        "first_flip_step": flips,
        "collapse_step": collapses,
        "answer_end_step": [prompt.steps - 1 for prompt in asked],
        "answer": ["12" if one else None for one in graded],
        "gold": ["12" if one else None for one in graded],
        "is_correct": [bool(one) if is_graded else None for one, is_graded in zip(right, graded, strict=True)],
    }


def _tops(
    recipe: rows.Recipe, steps: Mapping[str, Any], dense: np.random.Generator, own: np.random.Generator
) -> dict[str, Any]:
    each = 2 * RANKS
    count = len(steps["step"]) * each
    token = dense.integers(0, len(_WORDS), count).astype(np.int32)
    shares = np.exp(-np.tile(np.arange(RANKS), count // RANKS) - dense.random(count)).astype(np.float32)
    repeated = {
        name: pl.Series(steps[name]).gather(np.repeat(np.arange(count // each), each))
        for name in ("prompt_id", "trajectory", "step")
    }
    return {
        **rows._whose(MODEL, recipe, count),
        **repeated,
        "side": rows._label(("dense", "pruned"), RANKS, count // each),
        "rank": np.tile(np.arange(1, RANKS + 1, dtype=np.int16), count // RANKS),
        "token_id": token,
        "token_text": pl.Series(_WORDS[token]),
        **{f"logit_{side}": own.standard_normal(count, np.float32) for side in ("dense", "pruned")},
        "probability_dense": shares,
        "probability_pruned": np.clip(shares * np.exp(own.standard_normal(count, np.float32) / 4), 0, 1),
    }


def _options(recipe: rows.Recipe, choices: Sequence[Prompt], own: np.random.Generator) -> dict[str, Any]:
    count, options = len(choices), 4
    moved = recipe.strength > 0
    lists = ("logits", "p_full", "p_options")
    return {
        **rows._whose(MODEL, recipe, count),
        "prompt_id": [prompt.name for prompt in choices],
        "temperature": np.ones(count),
        "options": [list("ABCD")] * count,
        "option_token_ids": [[1, 2, 3, 4]] * count,
        "gold": ["A"] * count,
        "is_argmax_same": own.random(count) > 0.3 if moved else np.ones(count, bool),
        "kendall_tau": own.random(count, np.float32) if moved else np.ones(count, np.float32),
        **{f"{n}_{side}": own.random((count, options)).tolist() for n in lists for side in ("dense", "pruned")},
        **{f"rank_{side}": own.integers(1, 99, (count, options)).tolist() for side in ("dense", "pruned")},
        "kl_options_dense_pruned_nats": own.random(count) * moved,
        "kl_dense_pruned_nats": own.random(count) * moved,
    }


def _transitions(
    recipe: rows.Recipe, layered: Sequence[Prompt], dense: np.random.Generator, own: np.random.Generator
) -> dict[str, Any]:
    """Return rows in the order of the engine: layer, sublayer, lens, scope, prompt, position."""
    tokens = sum(prompt.steps for prompt in layered)
    shape = (rows.LAYERS, len(rows.SUBLAYERS), len(LENSES), len(SCOPES), tokens)
    count = int(np.prod(shape))
    grown = np.array([1, 3], np.float32)
    means = {
        space: np.broadcast_to(0.02 * grown[:, None], shape).reshape(count).astype(np.float32)
        for space in ("h", "z", "p")
    }
    sides = {
        name: np.broadcast_to(values, shape).reshape(count)
        for name, values in rows._dense_side(dense, (*shape[:3], 1, tokens)).items()
    }
    changed = np.zeros(shape[:2], bool)
    if recipe.dropped:
        changed[:: recipe.dropped, [not recipe.kind or recipe.kind == kind for kind in rows.SUBLAYERS]] = True
    moved = np.broadcast_to(changed[:, :, None, None, None], shape).copy()
    moved[..., SCOPES.index("propagated"), :] = recipe.strength > 0
    step = np.concatenate([np.arange(prompt.steps, dtype=np.int32) for prompt in layered])
    step = np.tile(step, count // tokens)
    return {
        **rows._whose(MODEL, recipe, count),
        "prompt_id": pl.Series([prompt.name for prompt in layered for _ in range(prompt.steps)]).gather(
            np.tile(np.arange(tokens), count // tokens)
        ),
        "position": step + rows.PROMPT_TOKENS - 1,
        "step": step,
        "layer": np.repeat(np.arange(rows.LAYERS, dtype=np.int16), count // rows.LAYERS),
        "sublayer": rows._label(rows.SUBLAYERS, count // rows.LAYERS // 2, rows.LAYERS),
        "scope": rows._label(SCOPES, tokens, count // tokens // len(SCOPES)),
        "lens": rows._label(LENSES, len(SCOPES) * tokens, rows.LAYERS * 2),
        "temperature": np.ones(count),
        "is_changed": np.repeat(changed.reshape(-1), count // changed.size),
        **rows._divergence(own, sides, means, recipe.strength, moved.reshape(count)),
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
