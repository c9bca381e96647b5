"""A warehouse in which every view has rows and every check passes, so that a test can break one thing in it."""

import numpy as np

from prunescope.warehouse.tables import TABLES
from tests.sql.built_searches import whole_search
from tests.sql.built_tasks import (
    imported_score,
    mask_sample,
    paper_reference,
    retrieval_score,
    speed,
    task_sample,
    task_score,
)
from tests.sql.built_texts import sampled_text, text_token
from tests.sql.warehouse_builder import LAYERS, Handmade

# What a test says of a view without rows.
NO_ROWS = "every view has some in tests/sql/built_whole.py; add there what it reads, for the variants that it is about"
PROMPTS = [f"p{index}" for index in range(3)]
STEPS = 8


def whole_warehouse() -> Handmade:
    """Build a model with its dense variant, seven recipes and a noise floor, measured in every way, and a search."""
    warehouse = Handmade().model().variant("dense")
    warehouse.variant("wanda-50", sparsity=0.5, removed=0.4)
    warehouse.variant("wanda-2of4", sparsity=0.5, removed=0.4, keep=2, block=4)
    drop = {"by": "influence", "count": 1}
    warehouse.variant("attn-drop-1", method="attn-drop", removed=0.1, dropped=["attn.1"], **drop)
    warehouse.variant("mlp-drop-1", method="mlp-drop", removed=0.2, dropped=["mlp.1"], **drop)
    warehouse.variant("rtn-4bit", method="rtn", bits=4)
    warehouse.variant("wanda-50-c4", sparsity=0.5, removed=0.4)
    for recipe, calibration in (("wanda-50", "help"), ("wanda-50-c4", "c4")):
        warehouse.where("variants", recipe=recipe)[0].update(recipe_hash="wanda-50", calibration_hash=calibration)
    warehouse.variant("noise-bfloat16", method="noise", kind="bfloat16")
    warehouse.variant("mixed-40", method="mixed", removed=0.4)
    whole_search(warehouse, "mixed-40")
    for seed, row in enumerate(list(warehouse.rows["variants"])):
        chance = np.random.default_rng(seed)
        _measure(warehouse, row["recipe"], row["sublayers_dropped"], chance)
        _score(warehouse, row["recipe"], chance)
        _sample_masks(warehouse, row["recipe"], row["sublayers_dropped"], chance)
    for method, dropped, value in (("dense", 0, 0.8), ("attn-drop", 1, 0.7), ("mlp-drop", 1, 0.3)):
        paper_reference(warehouse, method, "maths", value, dropped=dropped, metric="exact_match", model="published")
    return warehouse


def crowded_warehouse() -> Handmade:
    """Build the same and a second model with the same names of recipes, prompts, texts and samples and other rows."""
    warehouse, other = whole_warehouse(), whole_warehouse()
    swapped = {
        "wanda-50": "wanda-2of4",
        "wanda-2of4": "wanda-50",
        "attn-drop-1": "mlp-drop-1",
        "mlp-drop-1": "attn-drop-1",
    }
    for name, rows in other.rows.items():
        if not TABLES[name].is_study_output:
            continue
        for row in rows:
            recipe = {"recipe": swapped.get(row["recipe"], row["recipe"])} if "recipe" in row else {}
            warehouse.rows[name].append(row | recipe | {"model": "other"})
            if name == "text_tokens":
                warehouse.rows[name].append(row | recipe | {"model": "other", "text_id": "code"})
    return warehouse


def _score(warehouse: Handmade, recipe: str, chance: np.random.Generator) -> None:
    """Add eight samples a task; pruning costs written answers and hardly any chosen ones."""
    is_dense = recipe == "dense"
    task_score(warehouse, recipe, "text", 10.0 if is_dense else 20.0, metric="word_perplexity", kind="perplexity")
    written = [is_dense or bool(chance.random() < 0.5) for _ in range(8)]
    chosen = [[-1.0, -2.0] if is_dense or chance.random() < 0.8 else [-2.0, -1.0] for _ in range(8)]
    for sample in range(8):
        fork: dict[str, object] = {"first_flip_step": 3, "text_fork": "so 12", "is_correct_fork": sample % 2 == 0}
        forked = {} if is_dense else fork | {"is_correct_lenient_fork": True}
        task_sample(warehouse, recipe, "maths", f"s{sample}", is_correct=written[sample], **forked)
        options = {"target": sample % 2, "log_likelihoods": chosen[sample][:: -1 if sample % 2 else 1]}
        for scoring in ("letter", "full_text"):
            task_sample(warehouse, recipe, "choice", f"s{sample}", scoring=scoring, **options)
    share = sum(written) / 8
    task_score(warehouse, recipe, "maths", share, metric="exact_match", kind="generative", n=8)
    task_score(warehouse, recipe, "choice", sum(first > second for first, second in chosen) / 8, n=8)
    imported_score(warehouse, recipe, "maths", share, metric="exact_match", n=8)
    for data_set in ("news", "law"):
        retrieval_score(warehouse, recipe, data_set, 0.5 if is_dense else chance.uniform(0.2, 0.5))
        cosine = 1.0 if is_dense else chance.uniform(0.5, 1.0)
        retrieval_score(warehouse, recipe, data_set, cosine, metric="embedding_cosine", n=200)
    speed(warehouse, recipe, ratio=1.0 if is_dense else chance.uniform(1.0, 2.0))


def _sample_masks(warehouse: Handmade, recipe: str, dropped: list[str], chance: np.random.Generator) -> None:
    """Add one matrix of 40 weights a sublayer, of which Wanda keeps half."""
    for layer in range(LAYERS):
        for sublayer in ("attn", "mlp"):
            kept = chance.permutation(40) < (20 if recipe.startswith("wanda") else 40)
            kept &= f"{sublayer}.{layer}" not in dropped
            module = f"layers.{layer}.{sublayer}"
            mask_sample(warehouse, recipe, list(kept), layer=layer, sublayer=sublayer, module=module)


def _measure(warehouse: Handmade, recipe: str, dropped: list[str], chance: np.random.Generator) -> None:
    is_dense = recipe == "dense"
    for position in range(4):
        kl = 0.0 if is_dense else chance.uniform(0.01, 1.0)
        text_token(warehouse, recipe, position + 1, kl, window=position // 2, p_pruned=0.5 if is_dense else 0.4)
    for prompt in PROMPTS:
        _sample_texts(warehouse, recipe, prompt, chance)
        flip = None if is_dense or chance.random() < 0.2 else int(chance.integers(STEPS))
        end = STEPS - 1 if is_dense and prompt == PROMPTS[0] else None
        fork = {} if flip is None else {"text_fork": "so", "is_correct_fork": prompt == PROMPTS[0]}
        thinking = {"thinking_steps": 1, "thinking_text": "hm", "thinking_answer": "12"} if prompt == PROMPTS[0] else {}
        warehouse.generation(
            recipe,
            prompt,
            flip=flip,
            collapse=flip,
            answer_end=STEPS // 2,
            is_correct=is_dense,
            end_step=end,
            **fork,
            **thinking,
        )
        for temperature in (0.5, 1.0):
            pruned = [0.2, 0.1, 0.05, 0.02] if is_dense else [0.2, 0.02, 0.05, 0.1]
            warehouse.options(recipe, prompt, [0.2, 0.1, 0.05, 0.02], pruned, temperature=temperature, gold="A")
        for step in range(STEPS):
            # After the flip the dense tokens may agree again; at the flip itself they do not.
            flips = flip is not None and (step == flip or (step > flip and chance.random() < 0.3))
            kl = 0.0 if is_dense else chance.uniform(0.01, 1.0)
            kl = kl / 100 if recipe.startswith("noise") else kl
            parted = flip is not None and step > flip
            read = {"own_text": kl + 0.1 * parted, "free_running": kl + 1.0 * parted}
            for temperature in (0.5, 1.0):
                warehouse.step(recipe, prompt, step, kl, flips=flips, temperature=temperature)
                for trajectory, nats in read.items():
                    warehouse.step(
                        recipe, prompt, step, nats, flips=flips, temperature=temperature, trajectory=trajectory
                    )
                if flip is not None:
                    nats = 0.9 * parted
                    warehouse.step(recipe, prompt, step, nats, flips=flips, temperature=temperature, trajectory="fork")
                _measure_layers(warehouse, recipe, prompt, step, kl, temperature, dropped, chance)
            for trajectory in ("teacher_forced", "own_text"):
                warehouse.top_tokens(recipe, prompt, step, trajectory=trajectory, flips=flips)


def _sample_texts(warehouse: Handmade, recipe: str, prompt: str, chance: np.random.Generator) -> None:
    """Add two sampled texts; a pruned one parts after one to four steps."""
    for sample in range(2):
        steps = STEPS if recipe == "dense" else int(chance.integers(1, STEPS + 1))
        hazards = [0.0 if recipe == "dense" else chance.uniform(0.01, 0.9) for _ in range(steps)]
        behind = [1.0] * (STEPS - steps)
        sampled_text(warehouse, recipe, prompt, sample, hazards, flips=steps < STEPS, forced=behind, own=behind)


def _measure_layers(
    warehouse: Handmade,
    recipe: str,
    prompt: str,
    step: int,
    kl: float,
    temperature: float,
    dropped: list[str],
    chance: np.random.Generator,
) -> None:
    for layer in range(LAYERS):
        for sublayer in ("attn", "mlp"):
            is_changed = recipe.startswith(("wanda", "mixed", "noise")) or f"{sublayer}.{layer}" in dropped
            for lens in ("raw", "normed"):
                where = {"layer": layer, "sublayer": sublayer, "lens": lens, "temperature": temperature}
                local = chance.uniform(0.001, 0.1) if is_changed else 0.0
                warehouse.transition(recipe, prompt, step, local, is_changed=is_changed, **where)
                # The last MLP row is the model's output, where nothing runs on top of a swap.
                alone = local if (layer, sublayer) == (LAYERS - 1, "mlp") else 2 * local
                warehouse.transition(recipe, prompt, step, alone, scope="isolated", is_changed=is_changed, **where)
                if is_changed:
                    warehouse.transition(recipe, prompt, step, kl / 3, scope="restored", **where)
                propagated = kl if (layer, sublayer) == (LAYERS - 1, "mlp") else kl / 2
                warehouse.transition(
                    recipe, prompt, step, propagated, scope="propagated", is_changed=is_changed, **where
                )
