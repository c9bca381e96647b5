"""Recipes that round weights to few bits, for comparison with pruning. No torch here."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from prunescope.pipelines.core.frozen_model import MAX_STEPS
from prunescope.pipelines.recipes.base import MatrixRecipe, Reads


class QuantizationRecipe(MatrixRecipe):
    """A recipe that replaces weights by integers and scales; the variant is measured dequantized.

    It rounds the dense model's weights. If these come from a quantized file (`models.weight_format`), they are rounded
    twice, and the variant is compared with the file's model.

    Attributes:
        bits: bits per weight.
        group: number of consecutive inputs of an output that share scale and zero; None shares them among all.
        symmetric: whether the grid is symmetric around zero; otherwise it spans the smallest to the largest weight.
    """

    bits: int = Field(ge=2, le=8, examples=[4])
    group: int | None = Field(default=None, ge=2, le=2**24)
    symmetric: bool = False


def bits_spelling(method: str) -> re.Pattern[str]:
    """Return the pattern of names: `method-4bit`, `method-3bit-g128`."""
    return re.compile(rf"(?P<method>{method})-(?P<bits>\d)bit(?:-g(?P<group>\d+))?")


class GPTQ(QuantizationRecipe):
    """Rounding column by column, with each error compensated by later columns (Frantar et al., 2210.17323).

    It needs several times more calibration tokens than a matrix has inputs. With fewer it overfits: on other tokens
    the errors exceed those of rounding to nearest. More `damping` helps a little.

    Attributes:
        damping: added to the diagonal of the inputs' Gram matrix, as a share of its mean.
        act_order: whether columns with the largest inputs come first; the grids of groups are then computed from the
            weights before any rounding.
    """

    SPELLING = bits_spelling("gptq")
    EXAMPLES: ClassVar = (
        ("gptq-4bit", "4 bits per weight, one scale per output row, errors compensated by later columns"),
        ("gptq-3bit-g128", "3 bits per weight, one scale per 128 inputs, errors compensated by later columns"),
    )

    reads: ClassVar[Reads] = "gram"
    method: Literal["gptq"] = "gptq"
    damping: float = Field(default=0.01, gt=0)
    act_order: bool = False


class RTN(QuantizationRecipe):
    """Rounding of every weight to the nearest code of its group's grid, the usual baseline (2210.17323 §4)."""

    SPELLING = bits_spelling("rtn")
    EXAMPLES: ClassVar = (
        ("rtn-4bit", "4 bits per weight, one scale per output row, rounded to the nearest"),
        ("rtn-3bit-g64", "3 bits per weight, one scale per 64 inputs, rounded to the nearest"),
    )

    method: Literal["rtn"] = "rtn"


class AWQ(QuantizationRecipe):
    """Rounding after scaling input channels by their activations (Lin et al., 2306.00978).

    Attributes:
        steps: number of exponents of the activations to try, from 0 up to 1; 20 in the paper.
        clip: whether to try narrower grids, too, which clip the largest weights. The published code does so in all
            matrices except query and key projections; here it applies to all.
    """

    SPELLING = bits_spelling("awq")
    EXAMPLES: ClassVar = (
        ("awq-4bit", "4 bits per weight, one scale per output row, channels scaled by activations"),
        ("awq-4bit-g128", "4 bits per weight, one scale per 128 inputs, channels scaled by activations"),
    )

    reads: ClassVar[Reads] = "gram"
    method: Literal["awq"] = "awq"
    steps: int = Field(default=20, ge=1, le=MAX_STEPS)
    clip: bool = True


AnyQuantization = RTN | GPTQ | AWQ
