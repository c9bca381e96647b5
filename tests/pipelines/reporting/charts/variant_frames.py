"""Synthetic frames for the figures that compare whole variants, tasks and layers by step.

They have the columns of the SQL marts and questions that those figures read; `frames` has the others.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import cache

import polars as pl

MODEL = "SmolLM2-135M-Instruct"
RECIPES = ("attn-drop-4", "block-drop-4", "magnitude-50", "mlp-drop-4", "wanda-2of4", "wanda-50")
DROPS = tuple(f"{kind}-drop-{k}" for kind in ("attn", "mlp") for k in (1, 2, 4))
# Beside a drop, what the paper compares with quantization.
COMPARED = ("awq-4bit", "wanda-4of8")
TASKS = {"boolq": ("non_generative", "accuracy"), "gsm8k": ("generative", "exact_match")}
PROMPTS = ("choice-planets", "maths-apples", "open-rain")
LAYERS, STEPS = 6, 10


def _chance(*words: object) -> float:
    """Return a number from 0 to 1 that depends only on the words."""
    return hashlib.sha256("|".join(map(str, words)).encode()).digest()[0] / 255


def _method(recipe: str) -> str:
    return "dense" if recipe == "dense" else recipe.rpartition("-")[0] or recipe


def _dropped(recipe: str) -> int:
    """Return the number of dropped sublayers or blocks in a recipe's name."""
    return int(recipe[-1]) if "drop-" in recipe and recipe[-1] in "0123456789" else 0


def _harm(recipe: str) -> float:
    """Return 0 for the dense model and about 1 for a broken one."""
    if recipe == "dense":
        return 0.0
    dropped = _dropped(recipe)
    return dropped * (0.2 if "mlp" in recipe else 0.05) if dropped else 0.1 + 0.8 * _chance(recipe)


def _is_changed(recipe: str, layer: int, sublayer: str) -> bool:
    return "drop" not in recipe or (layer in (2, 4) and ("block" in recipe or sublayer in recipe))


def each(models: tuple[str, ...], recipes: tuple[str, ...], *, dense: bool = False) -> Iterator[tuple[str, str]]:
    yield from ((model, recipe) for model in models for recipe in (("dense", *recipes) if dense else recipes))


def paper_drops(models=(MODEL,), recipes=DROPS) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": model, "recipe": recipe, "method": _method(recipe), "dropped": _dropped(recipe),
         "non_generative_score": choosing, "non_generative_score_low": choosing - 0.06,
         "non_generative_score_high": choosing + 0.05, "generative_score": max(0.0, writing),
         "generative_score_low": max(0.0, writing - 0.09), "generative_score_high": max(0.0, writing) + 0.1}
        for model, recipe in each(models, recipes, dense=True)
        for choosing, writing in [(0.6 - 0.1 * _harm(recipe), 0.5 - 0.7 * _harm(recipe))]
    )  # fmt: skip


def stg_variants(models=(MODEL,), recipes=DROPS) -> pl.DataFrame:
    rows = [
        {"model": model, "recipe": recipe, "method": _method(recipe), "sublayers_dropped_count": _dropped(recipe),
         "parameters_json": '{"by": "influence"}' if "drop" in recipe else "{}"}
        for model, recipe in (*each(models, recipes, dense=True), *each(models, COMPARED))
    ]  # fmt: skip
    return pl.DataFrame(rows)


def stg_retrieval_scores(models=(MODEL,), recipes=DROPS) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "data_set": data_set, "metric": "ndcg_at_10",
          "value": 0.5 - 0.1 * _harm(recipe) - offset, "standard_error": 0.02, "n": 50}
         for model, recipe in each(models, recipes, dense=True) for data_set, offset in (("law", 0.1), ("news", 0.0))]
    )  # fmt: skip


def stg_paper_reference(models=(), recipes=()) -> pl.DataFrame:
    curve = [("dense", 0), *((method, k) for method in ("attn-drop", "mlp-drop") for k in (1, 2, 4))]
    rows = [
        {"model": "published-7b", "source": "Figure 1", "method": method, "dropped": dropped, "task": task,
         "metric": metric, "layer": -1, "value": 0.9 - 0.05 * dropped * (method == "mlp-drop")}
        for method, dropped in curve for task, (_, metric) in TASKS.items()
    ]  # fmt: skip
    # The dense model and two drops are a table and no curve.
    rows += [rows[0] | {"source": "a table", "model": "other-7b", "method": m, "dropped": k} for m, k in curve[:3]]
    return pl.DataFrame(rows)


def stg_task_scores(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    """Return two metrics per task; the second is 0.1 lower, so that their mean is 0.05 below the first."""
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "task_group": task, "metric": f"{metric}{suffix}", "kind": kind, "n": 100,
          "value": max(0.0, 0.6 - _harm(recipe) * (0.1 if kind == "non_generative" else 0.6)) - lower,
          "standard_error": 0.05, "is_higher_better": True, "shots": 0}
         for model, recipe in each(models, recipes, dense=True) for task, (kind, metric) in TASKS.items()
         for suffix, lower in (("", 0.0), ("_other", 0.1))]
    )  # fmt: skip


def task_losses(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    """Return losses that are larger in writing, and larger still by the dense model's own answers."""
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "measure": measure, "kind": kind, "loss": loss, "loss_low": loss - 0.05,
          "loss_high": loss + 0.07}
         for model, recipe in each(models, recipes) for measure, more in (("score", 0.0), ("agreement", 0.1))
         for kind, share in (("non_generative", 0.2), ("generative", 0.8)) for loss in [more + share * _harm(recipe)]]
    )  # fmt: skip


def stg_models(models=(MODEL,), recipes=()) -> pl.DataFrame:
    return pl.DataFrame([{"model": model, "parameters": (index + 1) * 10**8} for index, model in enumerate(models)])


def top1_changes(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "top1_change": change, "top1_change_low": 0.85 * change,
          "top1_change_high": 1.2 * change}
         for model, recipe in each(models, recipes, dense=True) for change in [0.6 * _harm(recipe)]]
    )  # fmt: skip


def speed_summary(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "batch": batch, "length": length, "new_tokens": 32,
          "prefill_speedup": 1 + 0.3 * _harm(recipe) * ("drop" in recipe),
          "decode_speedup": 1 + 0.4 * _harm(recipe) * ("drop" in recipe), "equal_sides": 0.03}
         for model, recipe in each(models, recipes, dense=True) for batch, length in ((1, 64), (1, 256), (8, 256))]
    )  # fmt: skip


def q20_answers_flipped(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    rows = []
    for model, recipe in each(models, recipes):
        for task, (_, metric) in TASKS.items():
            lost, gained = round(20 * min(1, _harm(recipe))), round(3 * _chance(recipe, task))
            flipped = lost + gained + 2
            rows.append(
                {"model": model, "recipe": recipe, "task": task, "metric": metric, "n_samples": 50, "lost": lost,
                 "gained": gained, "flipped": flipped, "flip_share": flipped / 50, "flip_share_low": flipped / 60,
                 "flip_share_high": flipped / 60 + 0.1, "accuracy_change": (gained - lost) / 50,
                 "hidden_flips": flipped - abs(lost - gained), "mcnemar_p": 0.5}
            )  # fmt: skip
    return pl.DataFrame(rows)


def pairwise_flips(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    """Return two metrics over the same 60 samples; a pair differs where one loses five more than the other."""
    rows = []
    for metric, hardness in (("accuracy", 0.3), ("exact_match", 0.6)):
        right = {
            recipe: {s for s in range(60) if _chance(metric, s) > hardness * (0.5 + _harm(recipe) * _chance(recipe, s))}
            for recipe in ("dense", *recipes)
        }
        for model in models:
            for recipe, own in right.items():
                for other, theirs in right.items():
                    lost, gained = len(own - theirs), len(theirs - own)
                    row = {"model": model, "recipe": recipe, "other_recipe": other, "metric": metric, "n_tasks": 2,
                           "n_samples": 60, "n_right": len(own), "other_n_right": len(theirs), "lost": lost,
                           "gained": gained, "lost_share": lost / 60, "mcnemar_p": 0.5 ** abs(lost - gained),
                           "n_tests": 21, "holm_p": 0.01 if abs(lost - gained) > 4 else 1.0}  # fmt: skip
                    rows += [row] if recipe != other else []
    return pl.DataFrame(rows)


def q27_pruning_against_quantization(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "quantization": "rtn", "measure": measure, "kl_nats": 0.01 + _harm(recipe),
          "value_pruned": size * _harm(recipe), "value_quantized": None if _harm(recipe) > 0.6 else size * 0.2,
          "recipe_below": "dense", "recipe_above": "rtn-3bit", "difference": 0.1,
          "difference_low": 0.1 - width, "difference_high": 0.1 + width}
         for model, recipe in each(models, recipes) if "rtn" not in recipe
         for measure, size in (("top1_change", 0.5), ("kl_step0_nats", 2.0), ("flipped_share", 1.0))
         for width in [0.3 * _chance(recipe, measure)]],
        infer_schema_length=None,
    )  # fmt: skip


def variant_damage(models=(MODEL,), recipes=(*RECIPES, "rtn-3bit", "rtn-4bit")) -> pl.DataFrame:
    """Return the measures of q27 with the same values; quantized variants have less damage."""
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "measure": measure, "amount": amount, "amount_low": 0.8 * amount,
          "amount_high": 1.1 * amount, "n_units": 6}
         for model, recipe in each(models, recipes)
         for measure, size in (("top1_change", 0.5), ("kl_step0_nats", 2.0), ("flipped_share", 1.0))
         for amount in [size * (0.2 + 0.1 * _chance(recipe) if "rtn" in recipe else _harm(recipe))]]
    )  # fmt: skip


def q28_sensitivity_to_calibration(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "other_recipe": f"{recipe}-c4", "method": _method(recipe),
          "differs_in": "calibration", "n_prompts": 6, "kl_nats": 0.4, "other_kl_nats": 0.4 + change,
          "kl_difference_nats": change, "kl_difference_low_nats": change - 0.1, "kl_difference_high_nats": change + 0.1,
          "jaccard_removed": 0.8 - change, "expected_jaccard_removed": 0.33}
         for model, recipe in each(models, recipes) for change in [_chance(recipe) / 3 - 0.1]]
    )  # fmt: skip


def mask_overlap(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    ordered = sorted([*recipes, "zero"])
    return pl.DataFrame(
        [{"model": model, "recipe": one, "other_recipe": other, "layer": layer, "sublayer": "mlp",
          "weights": 1000 * (1 + layer), "sampled": 500, "removed_share": 0.5,
          "other_removed_share": 0.5, "jaccard_removed": 0.35 + 0.6 * _chance(one, other, layer),
          "jaccard_removed_se": 0.01}
         for model in models for index, one in enumerate(ordered) for other in ordered[index + 1 :] for layer in (0, 1)]
    )  # fmt: skip


def q01_spike_predictors(models=(MODEL,), recipes=RECIPES, layers=LAYERS) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "layer": layer, "sublayer": sublayer, "lens": lens, "n_prompts": 6,
          "n_spikes": 9, "auc": auc, "auc_low": max(0.0, auc - 0.15), "auc_high": min(1.0, auc + 0.1)}
         for model, recipe in each(models, recipes) for layer in range(layers) for sublayer in ("attn", "mlp")
         if _is_changed(recipe, layer, sublayer) for lens in ("raw", "normed")
         for auc in [0.35 + 0.6 * _chance(recipe, layer, sublayer, lens)]]
    )  # fmt: skip


def q42_depth_of_predictors(models=(MODEL,), recipes=RECIPES, layers=LAYERS) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "lens": lens, "sublayer": sublayer, "layer": layer,
          "relative_depth": layer / max(1, layers - 1),
          "recipes": ", ".join(sorted(recipes)), "auc": auc, "auc_low": max(0.0, auc - 0.15),
          "auc_high": min(1.0, auc + 0.1),
          "top_decile_var_p_dz": 0.1 * 10 ** _chance(model, layer, sublayer, lens)}
         for model in models for lens in ("raw", "normed") for sublayer in ("attn", "mlp") for layer in range(layers)
         for auc in [0.35 + 0.6 * _chance(model, layer, sublayer, lens)]]
    )  # fmt: skip


def q43_rescue(models=(MODEL,), recipes=RECIPES, layers=LAYERS) -> pl.DataFrame:
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "layer": layer, "sublayer": sublayer, "rescue_rank": 1 + layer,
          "n_prompts": 6, "kl_joint_nats": 1.0, "rescued_nats": nats, "rescued_low": nats - 0.03,
          "rescued_high": nats + 0.03, "rescued_share": nats,
          "kl_isolated_nats": 0.7 * nats if "wanda" in recipe else None, "tokens_back": nats / 3}
         for model, recipe in each(models, recipes) for layer in range(layers) for sublayer in ("attn", "mlp")
         if _is_changed(recipe, layer, sublayer) for nats in [0.2 * _chance(recipe, layer, sublayer) - 0.02]]
    )  # fmt: skip


def decoding_at_reference(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    """Return teacher-forced rows, and for what is compared with quantization also those on the variant's own text."""
    return pl.DataFrame(
        [{"model": model, "recipe": recipe, "prompt_id": prompt, "trajectory": trajectory, "step": step,
          "position": 20 + step, "temperature": 1.0, "kl_dense_pruned_nats": _chance(recipe, prompt, step) ** 4,
          **{f"one_minus_cos_{space}": size * (0.1 + _chance(recipe, prompt, step, trajectory)) / (4 + step % 3)
             for space, size in {"h": 0.02, "z": 0.01, "p": 0.3 * (1 + ("drop" in recipe))}.items()}}
         for model, recipe in each(models, (*dict.fromkeys((*recipes, "attn-drop-4", *COMPARED)),))
         for trajectory in ("teacher_forced", *(("own_text",) if recipe in {"attn-drop-4", *COMPARED} else ()))
         for prompt in PROMPTS for step in range(STEPS)]
    )  # fmt: skip


def stg_layer_transitions(models=(MODEL,), recipes=RECIPES, layers=LAYERS, prompts=PROMPTS) -> pl.DataFrame:
    rows = []
    for model, recipe in each(models, recipes):
        for layer in range(layers):
            for sublayer in ("attn", "mlp"):
                is_changed = _is_changed(recipe, layer, sublayer)
                for prompt in prompts:
                    for step in range(STEPS):
                        place = math.exp(4 * _chance(recipe, layer, sublayer, prompt, step) - 4)
                        for lens in ("raw", "normed"):
                            key = {"model": model, "recipe": recipe, "prompt_id": prompt, "position": 20 + step,
                                   "step": step, "layer": layer, "sublayer": sublayer, "lens": lens,
                                   "temperature": 1.0, "is_changed": is_changed}  # fmt: skip
                            for scope in ("local", "propagated"):
                                is_moved = is_changed if scope == "local" else layer >= 2 or "drop" not in recipe
                                size = place * is_moved * (1 if lens == "normed" else 7)
                                rows.append(key | {"scope": scope, "var_p_dz": 2 * size, "kl_dense_pruned_nats": size})
    return pl.DataFrame(rows)


def transitions_at_reference(models=(MODEL,), recipes=RECIPES) -> pl.DataFrame:
    return stg_layer_transitions(models, recipes)


def search_variants(models=(MODEL,), recipes=()) -> pl.DataFrame:
    """Return published recipes of three methods and searched ones at equal budgets, on texts and on prompts."""
    return pl.DataFrame(
        [{"model": model, "recipe": f"{method}-{percent}", "method": method, "removed_share": percent / 100,
          "strategy": "searched" if method == "mixed" else None,
          "measured_on": measured_on, "kl_mean_nats": kl, "kl_low": kl / 1.15, "kl_high": kl * 1.15, "n_units": 12}
         for model in models for method, harm in (("mixed", 1.0), ("sparsegpt", 1.6), ("wanda", 2.4), ("attn-drop", 4))
         for percent in (10, 20, 30) for measured_on, factor in (("prompts", 1.3), ("texts", 1.0))
         for kl in [factor * harm * 0.003 * math.exp(0.13 * percent)]]
    )  # fmt: skip


def search_front(models=(MODEL,), recipes=()) -> pl.DataFrame:
    """Return the results of four strategies at three targets."""
    return pl.DataFrame(
        [{"model": model, "search": "0a1b2c3d", "strategy": strategy, "remove": remove,
          "removed": remove + 0.002, "recipe": f"mixed-{remove}" if place == 0 else None,
          "measured_nats": nats, "measured_low": 0.8 * nats, "measured_high": 1.2 * nats, "n_items": 8}
         for model in models for place, strategy in enumerate(("searched", "hidden", "random", "greedy"))
         for remove in (0.1, 0.2, 0.3) for nats in [0.004 * (1 + place) * math.exp(12 * remove)]]
    )  # fmt: skip


def search_allocation(models=(MODEL,), recipes=(), layers=LAYERS) -> pl.DataFrame:
    """Return two results, in which every sublayer gets one of four treatments or is kept."""
    shares = {"keep": 0.0, "rtn-4bit": 0.0, "sparsegpt-30": 0.3, "wanda-2of4": 0.5, "drop": 1.0}
    return pl.DataFrame(
        [{"model": model, "search": "0a1b2c3d", "strategy": strategy, "remove": remove, "layer": layer,
          "sublayer": sublayer, "treatment": treatment, "removed_share": shares[treatment],
          "effect_nats": 0.1 * shares[treatment]}
         for model in models for strategy in ("searched", "hidden") for remove in (0.2, 0.3)
         for layer in range(layers) for sublayer in ("attn", "mlp")
         for treatment in [list(shares)[int(4.99 * _chance(strategy, remove, layer, sublayer))]]]
    )  # fmt: skip


def search_matrices(models=(MODEL,), recipes=(), layers=LAYERS) -> pl.DataFrame:
    """Return the same results by matrix: a mask of a sublayer is split between its two, other treatments are not."""
    matrices = {"attn": ("c_attn", "c_proj"), "mlp": ("c_fc", "c_proj")}
    rows = []
    for row in search_allocation(models, recipes, layers).iter_rows(named=True):
        tilt = _chance(row["layer"], row["strategy"], row["sublayer"]) if row["treatment"] in {"sparsegpt-30"} else 0
        for name, sign in zip(matrices[row["sublayer"]], (1, -1), strict=True):
            share = row["removed_share"] * (1 + 0.9 * sign * tilt)
            rows.append(row | {"matrix": name, "weights": 1e6, "removed_share": share})
    return pl.DataFrame(rows)


MARTS: tuple[Callable[..., pl.DataFrame], ...] = (
    paper_drops,
    stg_variants,
    stg_retrieval_scores,
    stg_paper_reference,
    stg_task_scores,
    task_losses,
    stg_models,
    top1_changes,
    speed_summary,
    q20_answers_flipped,
    pairwise_flips,
    q27_pruning_against_quantization,
    variant_damage,
    q28_sensitivity_to_calibration,
    mask_overlap,
    q01_spike_predictors,
    q42_depth_of_predictors,
    q43_rescue,
    decoding_at_reference,
    stg_layer_transitions,
    transitions_at_reference,
    search_variants,
    search_front,
    search_allocation,
    search_matrices,
)


@cache
def of(models: tuple[str, ...], recipes: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    """Return all frames for other models and recipes."""
    return {mart.__name__: mart(models, recipes) for mart in MARTS}
