"""In which order models, recipes and prompts stand: as the study names them, and what it does not name by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class DisplayOrder:
    """Names in the study's order.

    Attributes:
        models: of models.
        recipes: of recipes; the dense one is the first in any case.
        prompts: of prompts.
    """

    models: Sequence[str] = ()
    recipes: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def of_variant(self, model: str, recipe: str) -> tuple[object, ...]:
        """What variants are sorted by."""
        return (*_place(model, self.models), recipe != "dense", *_place(recipe, self.recipes))

    def of_prompt(self, model: str, prompt: str) -> tuple[object, ...]:
        """What prompts are sorted by."""
        return (*_place(model, self.models), *_place(prompt, self.prompts))


def _place(name: str, known: Sequence[str]) -> tuple[int, list[tuple[int, str]], str]:
    """Numbers inside of names count as numbers: `wanda-9` before `wanda-10`."""
    pieces = [(int(piece[:18]) if piece.isdecimal() else -1, piece) for piece in _DIGITS.split(name)[:20]]
    return (known.index(name) if name in known else len(known), pieces, name)
