"""Recipes that remove whole sublayers or blocks. No torch here.

How the order is found stands in `pipelines.pruning.methods.depth`.
"""

import re
from typing import ClassVar, Literal

from pydantic import Field

from pipelines.pruning.recipes.base import BaseRecipe, Statistic


class Drop(BaseRecipe):
    """Removes the `count` sublayers or blocks with the least cosine influence, in one shot.

    Attention and MLP as in LLM-Drop (2406.15786), blocks as in ShortGPT (2403.03853).
    """

    SPELLING = re.compile(r"(?P<method>(?:attn|mlp|block)-drop)-(?P<count>\d+)")
    EXAMPLES: ClassVar = (
        ("attn-drop-4", "the 4 attention sublayers with least influence"),
        ("mlp-drop-4", "the 4 MLP sublayers with least influence"),
        ("block-drop-4", "the 4 whole blocks with least influence"),
    )

    method: Literal["attn-drop", "mlp-drop", "block-drop"]
    count: int = Field(ge=1)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The order in which to drop."""
        return ("block_influence",)

    @property
    def unit(self) -> str:
        """What is dropped: attn, mlp or block."""
        return self.method.removesuffix("-drop")
