"""The recipe that drops whole sublayers or blocks. No torch here."""

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.recipes.base import BaseRecipe, Statistic


class DepthRecipe(BaseRecipe):
    """Removal of `count` sublayers or blocks.

    The units are attention or MLP sublayers, or both jointly (`attn+mlp`), as in LLM-Drop (2406.15786 §3), or whole
    blocks, as in ShortGPT (2403.03853 §3).

    Attributes:
        count: number of units.
        by: their selection. `influence`: the least cosine influence, measured once (ShortGPT, LLM-Drop); `iterative`:
            the same, measured again after every removal; `greedy`: repeatedly the unit whose removal raises the loss
            least (SLEB, 2402.09025 §3); `consecutive`: the neighbours whose joint removal rotates the stream least
            (2403.17887 §3.2); `random`; `given`: those in `layers` or `sublayers`.
        seed: seed of `random`.
        layers: for `given`, layers from 0, if the units are attentions, MLPs or blocks.
        sublayers: for `given`, sublayers such as `attn.3`, if the units are `attn+mlp`.
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
        ("block-drop-4-greedy", "4 times the block whose removal raises the loss least"),
        ("block-drop-4-consecutive", "the 4 neighbouring blocks that rotate the stream least"),
        ("block-drop-4-random7", "4 random blocks, drawn with seed 7"),
    )

    method: Literal["attn-drop", "mlp-drop", "attn+mlp-drop", "block-drop"]
    count: int = Field(ge=1, le=10_000, examples=[4])
    by: Literal["influence", "iterative", "greedy", "consecutive", "random", "given"] = "influence"
    seed: int = Field(default=0, ge=0, lt=2**63)
    layers: tuple[int, ...] = ()
    sublayers: tuple[str, ...] = ()

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Parse `-random7` as a selection and its seed."""
        fields = super().spelled(match)
        return fields | {"by": "random"} if "seed" in fields else fields

    @model_validator(mode="before")
    @classmethod
    def _count_of_the_list(cls, fields: Any) -> Any:  # noqa: ANN401 (not validated yet)
        if isinstance(fields, dict) and (units := fields.get("layers") or fields.get("sublayers")):
            return {"by": "given", "count": len(units) if isinstance(units, list | tuple) else 1} | fields
        return fields

    @model_validator(mode="after")
    def _one_selection(self) -> "DepthRecipe":
        listed = self.layers or self.sublayers
        if self.layers and self.sublayers:
            raise ValueError("give either `layers` or `sublayers`")
        if (self.by == "given") != bool(listed):
            raise ValueError("`by: given` needs `layers` or `sublayers`, and they need `by: given`")
        if self.layers and self.unit == "attn+mlp":
            raise ValueError("`attn+mlp-drop` takes `sublayers`, such as [attn.3, mlp.5]")
        if self.sublayers and self.unit != "attn+mlp":
            raise ValueError(f"`{self.method}` takes `layers`; only `attn+mlp-drop` takes `sublayers`")
        if listed and (self.count != len(listed) or len(set(listed)) != len(listed)):
            raise ValueError(f"`count` is {self.count}, but {len(set(listed))} different ones are listed")
        if self.seed and self.by != "random":
            raise ValueError("`seed` needs `by: random`")
        return self

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Return the table of the units' influence if it is measured only once."""
        return ("block_influence",) if self.by == "influence" else ()

    @property
    def is_calibrated(self) -> bool:
        """Return whether the selection depends on the calibration tokens."""
        return self.by not in {"random", "given"}

    @property
    def unit(self) -> str:
        """Return the kind of unit: attn, mlp, attn+mlp or block."""
        return self.method.removesuffix("-drop")

    @property
    def given(self) -> tuple[str, ...]:
        """Return the labels of the listed units, such as `attn.3` or `block.5`."""
        return self.sublayers or tuple(f"{self.unit}.{layer}" for layer in self.layers)

    def units(self, layers: int) -> tuple[str, ...]:
        """Return the labels of all units of a model with `layers` layers, in the order in which they add to the stream.

        Raises:
            InputError: the model has too few units, or a listed unit does not exist.
        """
        kinds = self.unit.split("+")
        labels = tuple(f"{kind}.{layer}" for layer in range(layers) for kind in kinds)
        if self.count >= len(labels):
            present = f"{layers} layers" if len(kinds) == 1 else f"{layers} layers with {len(labels)} sublayers"
            raise InputError(f"recipe {self.name}: the model has {present}; drop fewer")
        unknown = next((label for label in self.given if label not in labels), None)
        if unknown is not None:
            raise InputError(f"recipe {self.name}: the model has no {unknown}, only {labels[0]} to {labels[-1]}")
        return labels
