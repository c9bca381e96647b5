"""Recipes that set weights to zero, alone or with a change of those that stay. No torch here.

How each is computed stands in `pipelines.pruning.methods` under the same name.
"""

from typing import ClassVar, Literal

from pipelines.pruning.recipes.base import Masked, Reads, spelling


class Magnitude(Masked):
    """Drops the smallest weights by absolute value (Han et al., 1506.02626).

    Attributes:
        group: among which weights the share is taken: the whole matrix, as usual, or each output row.
    """

    SPELLING = spelling("magnitude")
    EXAMPLES: ClassVar = (
        ("magnitude-50", "50 % smallest weights of each matrix"),
        ("magnitude-2of4", "the 2 largest of every 4 weights are kept"),
    )

    method: Literal["magnitude"] = "magnitude"
    group: Literal["matrix", "output"] = "matrix"


class Wanda(Masked):
    """Drops the smallest |W_ij|·‖X_j‖ in each output row (Sun et al., 2306.11695 §3)."""

    SPELLING = spelling("wanda")
    EXAMPLES: ClassVar = (
        ("wanda-50", "50 % smallest |W|·‖X‖ of each output row"),
        ("wanda-2of4", "the 2 largest |W|·‖X‖ of every 4 are kept"),
    )

    method: Literal["wanda"] = "wanda"

    @property
    def reads(self) -> Reads:
        """Input norms."""
        return "moments"
