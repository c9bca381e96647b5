"""The overlap of masks: by hand on eight weights, and against numpy on random masks of many."""

import math

import numpy as np
import pytest

from tests.sql.built_tasks import mask_sample
from tests.sql.warehouse_builder import Ask, Handmade


def bits(text: str) -> list[bool]:
    return [each == "1" for each in text]


def warehouse_of(**masks: str) -> Handmade:
    warehouse = Handmade().model().variant("dense")
    for recipe, kept in masks.items():
        warehouse.variant(recipe, method="noise" if recipe == "noise" else "wanda")
        mask_sample(warehouse, recipe, bits(kept))
    mask_sample(warehouse, "dense", [True] * 10)
    return warehouse


def test_overlaps_of_ten_weights_by_hand(ask: Ask) -> None:
    # Kept by a: 0-4, by b: 3-7; both 3 and 4, any 0-7. Removed by a: 5-9, by b: 0-2, 8, 9; both 8 and 9, any but 3, 4.
    [row] = ask(warehouse_of(a="1111100000", b="0001111100"), "mask_overlap")
    assert (row["recipe"], row["other_recipe"], row["weights"], row["sampled"]) == ("a", "b", 10, 10)
    assert (row["removed_share"], row["other_removed_share"]) == (0.5, 0.5)
    assert row["jaccard_kept"] == 2 / 8
    assert row["jaccard_removed"] == 2 / 8
    assert row["jaccard_kept_expected"] == row["jaccard_removed_expected"] == pytest.approx(0.25 / 0.75)
    assert (row["jaccard_kept_se"], row["jaccard_removed_se"]) == (0.0, 0.0)


def test_padding_bits_count_neither_as_kept_nor_as_removed(ask: Ask) -> None:
    [row] = ask(warehouse_of(a="110111111", b="111011111"), "mask_overlap")
    assert row["jaccard_removed"] == 0
    assert row["jaccard_kept"] == 7 / 9
    assert row["removed_share"] == pytest.approx(1 / 9)


def test_masks_that_remove_or_keep_nothing_have_no_overlap(ask: Ask) -> None:
    rows = ask(warehouse_of(a="1111", b="1111", c="0000"), "select * from mask_overlap order by recipe, other_recipe")
    found = {(row["recipe"], row["other_recipe"]): (row["jaccard_removed"], row["jaccard_kept"]) for row in rows}
    assert found == {("a", "b"): (None, 1.0), ("a", "c"): (0.0, 0.0), ("b", "c"): (0.0, 0.0)}
    assert rows[0]["jaccard_removed_expected"] is None


def test_dense_and_noise_are_left_out_and_models_kept_apart(ask: Ask) -> None:
    warehouse = warehouse_of(a="10", noise="11").model("other").variant("b", model="other")
    mask_sample(warehouse, "b", bits("10"), model="other")
    assert ask(warehouse, "mask_overlap") == []


def test_masks_of_matrices_of_other_sizes_are_not_compared(ask: Ask) -> None:
    assert ask(warehouse_of(a="1010", b="101"), "mask_overlap") == []


def test_overlaps_of_random_masks_equal_numpys(ask: Ask) -> None:
    chance = np.random.default_rng(0)
    masks = {name: chance.random(16_384) < share for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.9))}
    warehouse = warehouse_of()
    for name, mask in masks.items():
        warehouse.variant(name)
        mask_sample(warehouse, name, list(mask))
    # As if they were a sample of a matrix ten times as large.
    for row in warehouse.where("mask_samples", layer=0, weights=16_384):
        row["weights"] *= 10
    rows = ask(warehouse, "mask_overlap")
    assert len(rows) == 3
    for row in rows:
        one, other = masks[row["recipe"]], masks[row["other_recipe"]]
        for name, a, b in (("kept", one, other), ("removed", ~one, ~other)):
            either, overlap = (a | b).sum(), (a & b).sum() / (a | b).sum()
            assert row[f"jaccard_{name}"] == pytest.approx(overlap, rel=1e-12)
            error = math.sqrt(overlap * (1 - overlap) / either * 0.9)
            assert row[f"jaccard_{name}_se"] == pytest.approx(error, rel=1e-12)
            both = a.mean() * b.mean()
            assert row[f"jaccard_{name}_expected"] == pytest.approx(both / (a.mean() + b.mean() - both), rel=1e-12)
