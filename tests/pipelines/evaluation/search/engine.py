"""Menus, items and results of searches on tiny decoders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.evaluation.search.search import Search
from prunescope.pipelines.evaluation.search.whole import Means
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.pruning_inputs import Statistics

# Runs a search until so many allocations were measured whole, as if it was killed then; returns their variants.
Killed = Callable[[int, Callable[[], object]], list[object]]


def menu_of(decoder: Decoder, *treatments: str) -> Menu:
    """Return a menu of recipes that need no calibration."""
    return Menu(decoder, treatments, Statistics())


def items_of(decoder: Decoder, count: int = 3, length: int = 20) -> list[Item]:
    """Return random texts of different lengths, measured from different positions."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, decoder.vocabulary, (count, length), generator=generator).tolist()
    return [Item(f"text-{index}", tuple(own[: length - 3 * index]), 4 + index) for index, own in enumerate(tokens)]


def swaps_of(menu: Menu, labels: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return all swaps of some sublayers (all without any)."""
    return [
        (option.sublayer, option.treatment)
        for option in menu.options
        if option.treatment != "keep" and option.sublayer in (labels or menu.sublayers)
    ]


def results(trials: pl.DataFrame) -> dict[tuple[str, float], dict[str, Any]]:
    """Return the row of each strategy's result, by strategy and target."""
    return {(row["strategy"], row["remove"]): row for row in trials.filter("is_result").iter_rows(named=True)}


def geometric(row: Mapping[str, Any]) -> float:
    """Return the logarithm of the geometric mean over a trial's items."""
    return float(np.log(row["item_nats"]).mean())


def gains(search: Search, name: str, menu: Menu, allocation: Mapping[str, str], options: Sequence[int]) -> Means:
    """Return the same large gain of every option inside an allocation."""
    found = np.full(len(menu.options), np.nan)
    found[list(options)] = -100.0
    return found
