"""Recipes that round weights to few bits, for comparison with pruning. No torch here.

How each is computed stands in `prunescope.pipelines.pruning.methods` under the same name.
"""

import re
from typing import ClassVar, Literal

from pydantic import Field

from prunescope.pipelines.recipes.base import MatrixRecipe, Reads


class QuantizationRecipe(MatrixRecipe):
    """A recipe that puts integers and scales in place of weights; they are measured dequantized.

    Attributes:
        bits: of one weight.
        group: consecutive inputs of an output that share scale and zero; none: all of them.
        symmetric: a grid around zero, or from the smallest to the largest weight.
    """

    bits: int = Field(ge=2, le=8)
    group: int | None = Field(default=None, ge=2)
    symmetric: bool = False


def bits_spelling(method: str) -> re.Pattern[str]:
    """The names of a quantizer: `method-4bit`, `method-3bit-g128`."""
    return re.compile(rf"(?P<method>{method})-(?P<bits>\d)bit(?:-g(?P<group>\d+))?")


class GPTQ(QuantizationRecipe):
    """Rounds column by column; the columns that follow take up each one's error (Frantar et al., 2210.17323).

    It needs several times more calibration tokens than a matrix has inputs: with fewer, the errors cancel on those
    tokens and add up on others, beyond those of rounding to the nearest. More `damping` helps a little.

    Attributes:
        damping: added to the diagonal of the inputs' Gram matrix, as a share of its mean.
        act_order: columns with the largest inputs first; groups then keep the grid of the weights before any rounding.
    """

    SPELLING = bits_spelling("gptq")
    EXAMPLES: ClassVar = (
        ("gptq-4bit", "4 bits a weight, one scale for each output row, errors passed on"),
        ("gptq-3bit-g128", "3 bits a weight, one scale for every 128 inputs, errors passed on"),
    )

    method: Literal["gptq"] = "gptq"
    damping: float = Field(default=0.01, gt=0)
    act_order: bool = False

    @property
    def reads(self) -> Reads:
        """The Gram matrix."""
        return "gram"


class RTN(QuantizationRecipe):
    """Rounds every weight to the nearest code of its group's grid: every quantizer's baseline (2210.17323 §4)."""

    SPELLING = bits_spelling("rtn")
    EXAMPLES: ClassVar = (
        ("rtn-4bit", "4 bits a weight, one scale for each output row, rounded to the nearest"),
        ("rtn-3bit-g64", "3 bits a weight, one scale for every 64 inputs, rounded to the nearest"),
    )

    method: Literal["rtn"] = "rtn"


class AWQ(QuantizationRecipe):
    """Scales input channels by their activations before it rounds (Lin et al., 2306.00978).

    Attributes:
        steps: exponents of the activations that are tried, from 0 up to 1; the paper's grid of 20.
        clip: whether narrower grids are tried as well, which cut the largest weights, as the published code does.
    """

    SPELLING = bits_spelling("awq")
    EXAMPLES: ClassVar = (
        ("awq-4bit", "4 bits a weight, one scale for each output row, channels scaled by activations"),
        ("awq-4bit-g128", "4 bits a weight, one scale for every 128 inputs, channels scaled by activations"),
    )

    method: Literal["awq"] = "awq"
    steps: int = Field(default=20, ge=1)
    clip: bool = True

    @property
    def reads(self) -> Reads:
        """The Gram matrix."""
        return "gram"
