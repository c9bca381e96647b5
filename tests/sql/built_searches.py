"""Rows of a search written by hand, for `warehouse_builder`."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from tests.sql.warehouse_builder import LAYERS, MODEL, Handmade, Row

WEIGHTS = {"attn": 100, "mlp": 400}
MENU = ("drop", "wanda-50")
SEARCH = "0a1b2c3d"


def typical(values: Sequence[float]) -> float:
    """Return the geometric mean, each value raised by a thousandth of the mean; of equal values their own."""
    return float(np.prod([(value + np.mean(values) / 1000) / 1.001 for value in values]) ** (1 / len(values)))


def search_effect(
    warehouse: Handmade,
    place: str,
    treatment: str,
    item_kl: Sequence[float],
    *,
    kl: float | None = None,
    removed: int = 50,
    matrix: str = "all",
) -> None:
    """Add a row of `search_effects` from the KL of every item; the interval is 0.01 to both sides.

    Args:
        kl: the effect where it is not the geometric mean over the items (each raised by a thousandth of their mean),
            as it is not of a treatment measured on some or none.
    """
    sublayer, layer = place.split(".")
    kl = typical(item_kl) if kl is None else kl
    row: Row = {"layer": int(layer), "sublayer": sublayer, "matrix": matrix, "treatment": treatment, "seconds": 0.5}
    row |= {"parameters_removed": removed, "bytes_removed": 4 * removed, "milliseconds_removed": None}
    row |= {"kl_dense_pruned_nats": kl, "one_minus_cos_h": min(kl / 100, 1.0)}
    row |= {f"kl_{end}": kl + by if item_kl else None for end, by in (("low", -0.01), ("high", 0.01))}
    warehouse.add("search_effects", search=SEARCH, n_items=len(item_kl), item_kl=list(item_kl), **row)


def search_trial(
    warehouse: Handmade,
    trial: int,
    treatments: Mapping[str, str],
    item_nats: Sequence[float],
    *,
    strategy: str = "searched",
    **given: object,
) -> None:
    """Add a row of `search_trials` from the objective of every item; the interval is 0.01 to both sides."""
    measured, written = float(np.mean(item_nats)), json.dumps(dict(treatments), sort_keys=True)
    row: Row = {"search": SEARCH, "trial": trial, "strategy": strategy, "objective": "kl", "budget": "parameters"}
    row |= {"move": strategy if strategy in {"random", "greedy"} else "sum", "treatments_json": written}
    row |= {"remove": 0.4, "removed": given.get("remove", 0.4), "is_accepted": True, "is_result": False, "seconds": 2.0}
    row |= dict.fromkeys(("parent", "exchange", "difference_nats", "difference_low", "difference_high", "recipe"))
    row |= {"predicted_nats": measured, "measured_nats": measured}
    row |= {"measured_low": measured - 0.01, "measured_high": measured + 0.01, "item_nats": list(item_nats)}
    row |= {"n_items": len(item_nats), "item_ids": [f"i{index}" for index in range(len(item_nats))]}
    row |= {"recipe_treatments_json": None if given.get("recipe") is None else written} | given
    warehouse.add("search_trials", **row)


def sizes(warehouse: Handmade, model: str = MODEL) -> None:
    """Add one matrix of 100 weights to every attention and one of 400 to every MLP, in `activation_stats`."""
    for layer in range(LAYERS):
        for sublayer, weights in WEIGHTS.items():
            matrix(warehouse, layer, sublayer, f"layers.{layer}.{sublayer}", weights // 10, model)


def matrix(warehouse: Handmade, layer: int, sublayer: str, module: str, outputs: int, model: str = MODEL) -> None:
    """Add a matrix of ten inputs to `activation_stats`."""
    row: Row = {"layer": layer, "sublayer": sublayer, "in_features": 10, "out_features": outputs, "tokens": 8}
    row |= {"mean": [0.0] * 10, "second_moment": [1.0] * 10, "rms": 1.0, "kurtosis": 3.0, "max_abs": 2.0}
    warehouse.add("activation_stats", model=model, module=module, outlier_channels=0, calibration_hash="help", **row)


def whole_search(warehouse: Handmade, recipe: str) -> None:
    """Add a search with two trials of every strategy; the last one of each is its result, of the searched `recipe`."""
    chance = np.random.default_rng(5)
    sizes(warehouse)
    for place in (f"{sublayer}.{layer}" for layer in range(LAYERS) for sublayer in WEIGHTS):
        for treatment in MENU:
            weights = WEIGHTS[place.split(".")[0]] // (1 if treatment == "drop" else 2)
            search_effect(warehouse, place, treatment, list(chance.uniform(0.1, 1, 3)), removed=weights)
        for name in ("up_proj", "down_proj"):
            search_effect(warehouse, place, "wanda-50", [0.1], removed=20, matrix=name)
    trial = 0
    for strategy in ("searched", "hidden", "random", "greedy"):
        for parent, treatments in (
            (None, {"attn.0": "drop", "mlp.1": "wanda-50"}),
            (trial, {"mlp.0": "wanda-50", "mlp.1": "wanda-50"}),
        ):
            is_last = parent is not None
            given: Row = {"is_result": is_last, "recipe": recipe if is_last and strategy == "searched" else None}
            if is_last:
                given |= {"parent": parent, "difference_nats": -0.1, "difference_low": -0.2, "difference_high": 0.1}
            search_trial(warehouse, trial, treatments, list(chance.uniform(0.2, 2, 3)), strategy=strategy, **given)
            trial += 1
