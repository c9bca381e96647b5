"""Recipes that set weights to zero; some also update the other weights. No torch here."""

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.core.frozen_model import MAX_STEPS
from prunescope.pipelines.recipes.base import MaskingRecipe, MatrixRecipe, Reads, spelling


class Magnitude(MaskingRecipe):
    """Masking of the smallest weights by absolute value (Han et al., 1506.02626).

    Attributes:
        group: weights that are compared with each other: the whole `matrix`, as usual, or each `output` row.
    """

    SPELLING = spelling("magnitude")
    EXAMPLES: ClassVar = (
        ("magnitude-50", "50 % smallest weights of each matrix"),
        ("magnitude-2of4", "the 2 largest of every 4 weights are kept"),
    )

    method: Literal["magnitude"] = "magnitude"
    group: Literal["matrix", "output"] = "matrix"


class Wanda(MaskingRecipe):
    """Masking of the weights with the smallest |W_ij|·‖X_j‖ (Sun et al., 2306.11695 §3).

    Attributes:
        group: weights that are compared with each other: each `output` row, as in the paper (required for N:M); the
            whole `matrix`; or `threshold`, as in the paper's appendix: each row masks its lowest scores while their sum
            stays below a share α of the row's sum, with α set so that the whole matrix reaches the sparsity.
    """

    SPELLING = spelling("wanda")
    EXAMPLES: ClassVar = (
        ("wanda-50", "50 % smallest |W|·‖X‖ of each output row"),
        ("wanda-50-owl", "50 % in all, less in layers with many outliers; any share of any mask"),
        ("wanda-2of4", "the 2 largest |W|·‖X‖ of every 4 are kept"),
    )

    reads: ClassVar[Reads] = "moments"
    method: Literal["wanda"] = "wanda"
    group: Literal["output", "matrix", "threshold"] = "output"

    @model_validator(mode="after")
    def _groups_are_the_pattern(self) -> Self:
        if self.keep is not None and self.group != "output":
            raise ValueError("an N:M pattern counts in its own groups; leave `group` out")
        return self


class RIA(MaskingRecipe):
    """Masking of the smallest relative importance and activation (Zhang et al., "Plug-and-Play", ICLR 2024).

    The score is (|W_ij|/Σ_j|W_ij| + |W_ij|/Σ_i|W_ij|)·‖X_j‖^power. The paper's permutation of input channels before
    N:M is omitted, because in the model's own order of inputs the groups would not be N:M.

    Attributes:
        power: exponent of the input norms; a in the paper.
        group: weights that are compared with each other: the whole `matrix`, as in the paper, or each `output` row.
    """

    SPELLING = spelling("ria")
    EXAMPLES: ClassVar = (
        ("ria-50", "50 % least relative importance and activation of each matrix"),
        ("ria-2of4", "the 2 with most relative importance of every 4 are kept"),
    )

    reads: ClassVar[Reads] = "moments"
    method: Literal["ria"] = "ria"
    power: float = Field(default=0.5, ge=0)
    group: Literal["matrix", "output"] = "matrix"


class DSnoT(MatrixRecipe):
    """Exchange of masked and kept weights of an earlier mask that lowers the mean output error, without training.

    Zhang et al., "Dynamic Sparse No Training", 2310.08915. The number of kept weights in every row, and in every group
    of an N:M mask, stays the same. Restored weights have their dense values, even in removed neurons and heads, so it
    cannot follow a recipe that removes those.

    Attributes:
        max_cycle: maximum number of exchanges per row.
        update_threshold: expected error E[(W − Ŵ)x] up to which a row stays unchanged. The published code compares 0.1
            with the sum over a calibration sequence of 2,048 tokens, which is 5e-5 per token.
        pow_of_var: power of the variance in W·E[x]/Var[x]^power, the criterion for restoring a weight.
    """

    SPELLING = re.compile(r"(?P<method>dsnot)")
    EXAMPLES: ClassVar = (
        (
            "wanda-50+dsnot",
            "wanda-50, then weights exchanged if that lowers the mean error; after any mask of weights",
        ),
    )

    reads: ClassVar[Reads] = "moments"
    starts_dense: ClassVar[bool] = True
    method: Literal["dsnot"] = "dsnot"
    max_cycle: int = Field(default=50, ge=1, le=MAX_STEPS)
    update_threshold: float = Field(default=5e-5, ge=0)
    pow_of_var: float = Field(default=1.0, ge=0)


class SparseGPT(MaskingRecipe):
    """Masking by the optimal brain surgeon's score, with updates of later columns (Frantar & Alistarh, 2301.00774).

    It needs several times more calibration tokens than a matrix has inputs. With fewer it overfits and does worse than
    Wanda on other tokens. More `damping` helps a little.

    Attributes:
        columns: number of columns per block, whose mask is selected at once; with N:M, rounded up to a multiple of M.
        damping: added to the diagonal of the inputs' Gram matrix, as a share of its mean.
        group: weights of a column block that are compared with each other: the whole `block`, as in the paper, or each
            `output` row.
    """

    SPELLING = spelling("sparsegpt")
    EXAMPLES: ClassVar = (
        ("sparsegpt-50", "50 % of each block of 128 columns, the other weights updated"),
        ("sparsegpt-2of4", "2 of every 4 weights are kept, the others updated"),
    )

    reads: ClassVar[Reads] = "gram"
    starts_dense: ClassVar[bool] = True
    method: Literal["sparsegpt"] = "sparsegpt"
    columns: int = Field(default=128, ge=1, le=2**24)
    damping: float = Field(default=0.01, gt=0)
    group: Literal["block", "output"] = "block"


class ADMM(MaskingRecipe):
    """Gradual masking by |W|·‖X‖, with a solution for the kept weights (Boža, 2401.02938).

    Without a pattern (`wanda-50+admm`), the mask of the earlier recipes is used.

    Attributes:
        iterations: iterations of the solver.
        mask_iterations: number of first iterations in which the sparsity grows to its final value, along a cubic.
        rho: weight of the mask against the error; 1 in the paper.
        damping: added to the diagonal of the Gram matrix of inputs scaled to norm 1.
        group: weights that are compared with each other: the whole `matrix`, as published, or each `output` row.
    """

    SPELLING = spelling("admm", also_alone=True)
    EXAMPLES: ClassVar = (
        ("admm-50", "50 % masked gradually while the other weights are solved for"),
        ("admm-2of4", "2 of every 4 weights are kept and solved for"),
        ("wanda-50+admm", "Wanda's mask, the kept weights solved for"),
    )

    reads: ClassVar[Reads] = "gram"
    starts_dense: ClassVar[bool] = True
    method: Literal["admm"] = "admm"
    iterations: int = Field(default=20, ge=1, le=MAX_STEPS)
    mask_iterations: int = Field(default=15, ge=1, le=MAX_STEPS)
    rho: float = Field(default=1.0, gt=0)
    damping: float = Field(default=0.1, gt=0)
    group: Literal["matrix", "output"] = "matrix"

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if self.mask_iterations > self.iterations:
            raise ValueError("`mask_iterations` must be at most `iterations`: the sparsity would not be reached")
        if self.sparsity is None and self.keep is None and self.block is None and self.ratios == "uniform":
            return self  # it uses the mask of the earlier recipes
        return self.require_pattern()


# Recipes that can be a matrix's only one, and all; a new recipe joins one of them.
FirstWeightRecipe = Magnitude | Wanda | RIA | SparseGPT | ADMM
WeightRecipe = FirstWeightRecipe | DSnoT
