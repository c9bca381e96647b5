"""Recipes that remove whole neurons of MLPs and heads of attentions, so that matrices can shrink. No torch here."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from prunescope.pipelines.recipes.base import BaseRecipe, Statistic


class StructuredRecipe(BaseRecipe):
    """Removal of a share of units: rows of the matrices that compute them, columns of the matrix that reads them.

    Attributes:
        share: share of the units, above 0 and below 1.
        score: importance of a unit. `magnitude`: the norm of all its weights; `wanda`: Σ|W_ij|·‖X_j‖ over the columns
            that read it (2306.11695 §3, summed over the outputs); `flap`: the variance of those inputs times the
            squared norms of the columns (An et al., 2312.11983 §3.2).
        ratios: `uniform`, the share of every module's units (and of every expert's); or `global`, the share of the
            weights in the units of all modules, by scores standardised within each module (2312.11983 §3.3).
        compensate: whether to add the mean contribution of the removed inputs to the bias of the matrix that read them
            (2312.11983 §3.4).
    """

    # Sublayers whose units are removed: mlp for neurons, attn for heads.
    KINDS: ClassVar[tuple[str, ...]]

    share: float = Field(gt=0, lt=1, examples=[0.25])
    score: Literal["magnitude", "wanda", "flap"] = "wanda"
    ratios: Literal["uniform", "global"] = "uniform"
    compensate: bool = False

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Add the compensation that FLAP's score implies."""
        fields = super().spelled(match)
        return fields | ({"compensate": True} if fields.get("score") == "flap" else {})

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """Return the table with means and second moments of the units, if they are used."""
        return () if self.score == "magnitude" and not self.compensate else ("activation_stats",)


def _spelling(method: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<method>{method})-(?P<share_percent>[1-9]\d?(?:\.\d+)?)(?:-(?P<score>magnitude|flap))?")


class Neurons(StructuredRecipe):
    """Removal of neurons of MLPs, separately for every expert (idea: Molchanov et al., 1611.06440)."""

    SPELLING = _spelling("neurons")
    EXAMPLES: ClassVar = (
        ("neurons-20", "20 % of the neurons of each MLP, by Wanda's score"),
        ("neurons-20-magnitude", "20 % of the neurons of each MLP, by the norm of their weights"),
        ("neurons-20-flap", "20 % of the neurons of each MLP, by FLAP's score, with its bias"),
    )

    method: Literal["neurons"] = "neurons"

    KINDS: ClassVar = ("mlp",)


class Heads(StructuredRecipe):
    """Removal of attention heads (idea: Michel et al., 1905.10650); with grouped queries, of whole groups."""

    SPELLING = _spelling("heads")
    EXAMPLES: ClassVar = (
        ("heads-25", "25 % of the heads (key-value groups) of each attention, by Wanda's score"),
        ("heads-25-magnitude", "25 % of the heads of each attention, by the norm of their weights"),
        ("heads-25-flap", "25 % of the heads of each attention, by FLAP's score, with its bias"),
    )

    method: Literal["heads"] = "heads"

    KINDS: ClassVar = ("attn",)


class Flap(StructuredRecipe):
    """Removal of heads and neurons below one threshold for the model, with bias compensation (FLAP, 2312.11983)."""

    SPELLING = re.compile(r"(?P<method>flap)-(?P<share_percent>[1-9]\d?(?:\.\d+)?)")
    EXAMPLES: ClassVar = (("flap-20", "20 % of the weights of all heads and neurons, by FLAP"),)

    method: Literal["flap"] = "flap"
    score: Literal["flap"] = "flap"
    ratios: Literal["uniform", "global"] = "global"
    compensate: bool = True

    KINDS: ClassVar = ("attn", "mlp")


AnyStructure = Neurons | Heads | Flap
