"""Menus, items and whole measurements of tiny decoders."""

from collections.abc import Sequence

import torch

from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.menu import Menu
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.pruning_inputs import Statistics


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
