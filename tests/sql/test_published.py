"""Every published number stands beside ours: a warehouse that reproduces them all, and what it must leave out."""

import numpy as np
import pytest

from prunescope.pipelines.reporting.published import published
from tests.sql.built_tasks import paper_reference, retrieval_score, task_score
from tests.sql.built_texts import text_token
from tests.sql.warehouse_builder import Handmade, Row, rows_of

NUMBERS = list(published().iter_rows(named=True))
QWEN = "qwen2.5-7b-instruct"
# The variant that measures what was published without a method.
HIDDEN = "hidden"
DECOY = {"one_minus_cos_h": 0.9, "one_minus_cos_z": 0.9, "one_minus_cos_p": 0.9}


def values(task: str, method: str) -> dict[str, float]:
    """Return the published numbers of a task and method by metric."""
    return {row["metric"]: row["value"] for row in NUMBERS if (row["task"], row["method"]) == (task, method)}


def replicated() -> Handmade:
    """Build a warehouse whose measurements give every published number, beside rows that must not count."""
    warehouse, models = Handmade(), {row["model"] for row in NUMBERS}
    for row in NUMBERS:
        paper_reference(warehouse, **row)
    for model in models:
        warehouse.model(model=model).variant("dense", model=model).variant(
            "noise-bfloat16", method="noise", kind="bfloat16", model=model
        )
    variants = {(row["model"], row["method"], row["dropped"]) for row in NUMBERS if row["task"] != "layerwise"}
    recipes = {key: "dense" if key[1] == "dense" else f"mine-{number}" for number, key in enumerate(sorted(variants))}
    recipes[QWEN, "unnamed", 0] = HIDDEN
    for (model, method, dropped), recipe in recipes.items():
        units = ("attn", "mlp") if method == "block-drop" else (method.removesuffix("-drop"),)
        labels = [f"{unit}.{layer}" for layer in range(dropped) for unit in units]
        if method != "dense" and method != "unnamed" and not dropped:
            recipes[model, method, dropped] = method
            warehouse.variant(method, model=model, method=method.partition("-")[0], sparsity=0.5)
        elif method != "dense":
            warehouse.variant(recipe, model=model, method=method if dropped else "wanda", dropped=labels)
    for row in NUMBERS:
        model, task, metric, value = row["model"], row["task"], row["metric"], row["value"]
        recipe = recipes.get((model, row["method"], row["dropped"]), "")
        if row["layer"] >= 0 or task in {"generation", "options", "estimates"}:
            continue
        if metric == "ndcg_at_10":
            retrieval_score(warehouse, recipe, task, value, model=model)
        elif metric == "token_perplexity":
            kl, dense = float(recipe != "dense"), values(task, "dense")[metric]
            given = {"p_dense": 1 / dense, "p_pruned": 1 / value, "text": f"{task}-raw", "model": model}
            text_token(warehouse, recipe, 1, kl, **given)
        else:
            # A group of two tasks, as MMLU is one of 57.
            for part, moved in (("one", value / 9), ("two", -value / 9)):
                task_score(warehouse, recipe, f"{task}_{part}", value + moved, metric=metric, group=task, model=model)
    _layers(warehouse)
    _generation(warehouse, recipes[QWEN, "attn-drop", 8])
    _options(warehouse, HIDDEN)
    _estimates(warehouse, HIDDEN)
    return warehouse


def _layers(warehouse: Handmade) -> None:
    for unit in ("attn", "mlp"):
        recipe = f"{unit}-all"
        warehouse.variant(recipe, method=f"{unit}-drop", dropped=[f"{unit}.{layer}" for layer in range(28)], model=QWEN)
        for prompt in ("p", "q"):
            warehouse.step(recipe, prompt, 0, model=QWEN)
    for row in NUMBERS:
        if row["layer"] >= 0 and row["metric"] == "cosine_h":
            unit, layer = row["method"].removesuffix("-drop"), row["layer"]
            cosine = {
                other["metric"]: other["value"]
                for other in NUMBERS
                if (other["method"], other["layer"]) == (row["method"], layer)
            }
            place = {"layer": layer, "sublayer": unit, "model": QWEN}
            for prompt, moved in (("p", 1.5), ("q", 0.5)):
                defects = {f"one_minus_cos_{s}": moved * (1 - cosine[f"cosine_{s}"]) for s in "hzp"}
                warehouse.transition(f"{unit}-all", prompt, 0, lens="raw", **place, **defects)
            warehouse.transition(f"{unit}-all", "p", 0, lens="normed", **place, **DECOY)
            warehouse.transition(f"{unit}-all", "p", 0, lens="raw", scope="propagated", **place, **DECOY)
            other = {**place, "sublayer": "mlp" if unit == "attn" else "attn"}
            warehouse.transition(f"{unit}-all", "p", 0, lens="raw", is_changed=False, **other, **DECOY)


def _generation(warehouse: Handmade, recipe: str) -> None:
    cosine = values("generation", "attn-drop")
    for step, kl in enumerate(
        (cosine["kl_step0_nats"], cosine["kl_step1_nats"], cosine["kl_free_running_median_nats"])
    ):
        defects = {f"one_minus_cos_{s}": 1 - cosine.get(f"cosine_{s}_step{step}", 0.5) for s in "hzp"}
        for trajectory in ("free_running", "teacher_forced"):
            given = {"kl_dense_pruned_nats": kl, **defects} if trajectory == "free_running" or not step else DECOY
            warehouse.step(recipe, "p", step, kl, trajectory=trajectory, model=QWEN, **given)


def _options(warehouse: Handmade, recipe: str) -> None:
    """Add two questions, the options of the second in another order and with the same mean."""
    dense, pruned = values("options", "dense"), values("options", "unnamed")
    for question, order, moved in (("p", "abcd", 0.01), ("q", "dbac", -0.01)):
        shifts = {"a": moved, "b": -moved, "c": 0.0, "d": 0.0}
        sides = [
            [(side[f"p_option_{name}"] + shifts[name]) * dense["mass"] for name in order] for side in (dense, pruned)
        ]
        warehouse.options("dense", question, sides[0], sides[0], model=QWEN)
        warehouse.options(recipe, question, *sides, model=QWEN)
        for name in ("dense", recipe):
            warehouse.step(name, question, 0, model=QWEN)
    warehouse.options(recipe, "three", [0.3, 0.2, 0.1], [0.1, 0.2, 0.3], model=QWEN)


def _estimates(warehouse: Handmade, recipe: str) -> None:
    """Add points whose ratios of T2 are 1.2, 1.6 and 2.6 where the truth is above 0.05, and whose T3 correlates so."""
    chance, published = np.random.default_rng(0), values("estimates", "unnamed")
    x, noise = (side - side.mean() for side in chance.random((2, 12)))
    noise -= x * (noise @ x) / (x @ x)
    r = published["t3_correlation"]
    y = r * x / np.linalg.norm(x) + np.sqrt(1 - r**2) * noise / np.linalg.norm(noise)
    ratios = [1.2, published["t2_ratio_median"], published["t2_ratio_max"], *([9.0] * 9)]
    for step, (estimate, truth, ratio) in enumerate(zip(x - x.min() + 1, y - y.min() + 1, ratios, strict=True)):
        cosine = 0.25 if step < 3 else 0.04
        given = {
            "t3_kl_nats": estimate,
            "kl_dense_pruned_nats": truth,
            "one_minus_cos_p": cosine,
            "t2_p": ratio * cosine,
        }
        warehouse.transition(recipe, "p", step, lens="raw", model=QWEN, **given)
        warehouse.transition(recipe, "p", step, lens="normed", model=QWEN, **given | {"t3_kl_nats": 1 / estimate})
        if step:
            warehouse.step(recipe, "p", step, model=QWEN)


def named(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in ("source", "method", "dropped", "task", "metric", "layer"))


def test_a_warehouse_that_repeats_every_published_measurement_has_every_published_number() -> None:
    found = rows_of(replicated().opened(), "paper_published")
    own = [row for row in found if row["is_same_model"] and row["value_ours"] is not None]
    # Every pruned variant stands beside what has no method; this one was measured for it.
    own = [row for row in own if row["method"] != "unnamed" or row["recipe"] == HIDDEN]
    measured = {(row["model_published"], *named(row)): row for row in own}

    missing = {(row["model"], *named(row)) for row in NUMBERS} - set(measured)
    assert not missing, (
        f"{len(missing)} of {len(NUMBERS)} published numbers are joined by no row, such as {min(missing)}"
    )
    assert len(NUMBERS) == len(measured) == 414
    for row in NUMBERS:
        ours = measured[row["model"], *named(row)]
        assert ours["value_published"] == row["value"]
        assert ours["value_ours"] == pytest.approx(row["value"], rel=2e-6, abs=2e-7), named(row)


def test_a_number_without_ours_has_one_row_that_says_so() -> None:
    warehouse = Handmade().model().variant("dense")
    for row in NUMBERS:
        paper_reference(warehouse, **row)
    rows = rows_of(warehouse.opened(), "paper_published")

    assert len(rows) == len(NUMBERS) == 414
    assert {(row["measured_on"], row["value_ours"], row["difference"], row["kept_ours"]) for row in rows} == {
        ("nothing", None, None, None)
    }
    assert {row["model"] for row in rows} == {row["model"] for row in NUMBERS}
    assert {"attn-drop-8", "dense", "unnamed", "wanda-2of4"} <= {row["recipe"] for row in rows}


def test_noise_and_quantization_are_no_unnamed_way_of_pruning() -> None:
    warehouse = Handmade().model().variant("dense").variant("noise-bfloat16", method="noise", kind="bfloat16")
    warehouse.variant("awq-4bit", method="awq", bits=4).variant("w", sparsity=0.5)
    for recipe in ("noise-bfloat16", "awq-4bit", "w"):
        warehouse.options(recipe, "p", [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]).step(recipe, "p", 0)
    for row in NUMBERS:
        if row["task"] == "options":
            paper_reference(warehouse, **row)
    found = [row for row in rows_of(warehouse.opened(), "paper_published") if row["value_ours"] is not None]

    assert {row["recipe"] for row in found} == {"w"}
    assert {row["metric"]: row["value_ours"] for row in found} == {
        f"p_option_{name}": pytest.approx(value) for name, value in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)
    }
