"""Recipes that remove whole sublayers or blocks. No torch here.

How the order is found stands in `prunescope.pipelines.pruning.methods.depth`.
"""

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes.base import BaseRecipe, Statistic

Choice = Literal["influence", "iterative", "greedy", "consecutive", "random", "given"]


class DepthRecipe(BaseRecipe):
    """Removes `count` sublayers or blocks.

    Attention and MLP sublayers, each by themselves or jointly (`attn+mlp`), as in LLM-Drop (2406.15786 §3); whole
    blocks as in ShortGPT (2403.03853 §3).

    Attributes:
        count: how many.
        by: how they are chosen. `influence`: the least cosine influence, measured once (ShortGPT, LLM-Drop);
            `iterative`: the same, measured again after every removal; `greedy`: again and again the one whose removal
            raises the loss least (SLEB, 2402.09025 §3); `consecutive`: the neighbours whose joint removal turns the
            stream least (2403.17887 §3.2); `random`; `given`: those of `layers` or `sublayers`.
        seed: of `random`.
        layers: of `given`, from 0, where the units are attentions, MLPs or blocks.
        sublayers: of `given`, such as `attn.3`, where the units are `attn+mlp`.
    """

    SPELLING = re.compile(
        r"(?P<method>(?:attn|mlp|attn\+mlp|block)-drop)-(?P<count>\d+)"
        r"(?:-(?:(?P<by>iterative|greedy|consecutive)|random(?P<seed>\d+)))?"
    )
    EXAMPLES: ClassVar = (
        ("attn-drop-4", "the 4 attention sublayers with least influence"),
        ("mlp-drop-4", "the 4 MLP sublayers with least influence"),
        ("attn+mlp-drop-4", "the 4 sublayers with least influence among both kinds"),
        ("block-drop-4", "the 4 whole blocks with least influence"),
        ("block-drop-4-iterative", "the same, measured again after every removal"),
        ("block-drop-4-greedy", "again and again the block whose removal raises the loss least"),
        ("block-drop-4-consecutive", "the 4 neighbouring blocks that turn the stream least"),
        ("block-drop-4-random7", "4 random blocks, drawn with seed 7"),
    )

    method: Literal["attn-drop", "mlp-drop", "attn+mlp-drop", "block-drop"]
    count: int = Field(ge=1)
    by: Choice = "influence"
    seed: int = Field(default=0, ge=0)
    layers: tuple[int, ...] = ()
    sublayers: tuple[str, ...] = ()

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Reads `-random7` as a choice and its seed."""
        fields = super().spelled(match)
        return fields | {"by": "random"} if "seed" in fields else fields

    @model_validator(mode="before")
    @classmethod
    def _count_of_the_list(cls, fields: Any) -> Any:  # noqa: ANN401 (whatever somebody wrote)
        if isinstance(fields, dict) and (given := fields.get("layers") or fields.get("sublayers")):
            return {"by": "given", "count": len(given)} | fields
        return fields

    @model_validator(mode="after")
    def _one_choice(self) -> "DepthRecipe":
        listed = self.layers or self.sublayers
        if self.layers and self.sublayers:
            raise ValueError("give either `layers` or `sublayers`")
        if (self.by == "given") != bool(listed):
            raise ValueError("`layers` or `sublayers` go with `by: given`, and it with them")
        if self.layers and self.unit == "attn+mlp":
            raise ValueError("`attn+mlp-drop` takes `sublayers`, such as [attn.3, mlp.5]")
        if self.sublayers and self.unit != "attn+mlp":
            raise ValueError(f"`{self.method}` takes `layers`; a list of `sublayers` is `attn+mlp-drop`'s")
        if listed and (self.count != len(listed) or len(set(listed)) != len(listed)):
            raise ValueError(f"`count` is {self.count}, but {len(set(listed))} different ones are listed")
        if self.seed and self.by != "random":
            raise ValueError("`seed` goes with `by: random`")
        return self

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The influence of every unit, where it is measured once."""
        return ("block_influence",) if self.by == "influence" else ()

    @property
    def is_calibrated(self) -> bool:
        """Whether the calibration tokens have a part in the choice."""
        return self.by not in {"random", "given"}

    @property
    def unit(self) -> str:
        """What is dropped: attn, mlp, attn+mlp or block."""
        return self.method.removesuffix("-drop")

    @property
    def given(self) -> tuple[str, ...]:
        """Labels of the listed units, such as `attn.3` or `block.5`."""
        return self.sublayers or tuple(f"{self.unit}.{layer}" for layer in self.layers)

    def units(self, layers: int) -> tuple[str, ...]:
        """Labels of all units of a model, in the order in which the stream meets them.

        Args:
            layers: how many the model has.

        Raises:
            InputError: there are too few of them, or a listed one is none of them.
        """
        kinds = self.unit.split("+")
        found = tuple(f"{kind}.{layer}" for layer in range(layers) for kind in kinds)
        what = f"{layers} layers" if len(kinds) == 1 else f"{layers} layers with {len(found)} sublayers"
        if self.count >= len(found):
            raise InputError(f"recipe {self.name}: the model has {what}; drop fewer")
        unknown = next((label for label in self.given if label not in found), None)
        if unknown is not None:
            raise InputError(f"recipe {self.name}: the model has no {unknown}, only {found[0]} to {found[-1]}")
        return found
