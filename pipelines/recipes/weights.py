"""Recipes that set weights to zero, alone or with a change of those that stay. No torch here.

How each is computed stands in `prunescope.pipelines.pruning.methods` under the same name.
"""

import re
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from prunescope.pipelines.recipes.base import MaskingRecipe, MatrixRecipe, Reads, spelling


class Magnitude(MaskingRecipe):
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


class Wanda(MaskingRecipe):
    """Drops the smallest |W_ij|·‖X_j‖ (Sun et al., 2306.11695 §3).

    Attributes:
        group: among which weights the share is taken: each `output` row, as in the paper; the whole `matrix`; or
            `threshold`, the variant of its appendix: a row drops its lowest scores while their sum stays below a share
            α of the row's sum, with the α at which the whole matrix reaches the sparsity. N:M takes no other than
            `output`.
    """

    SPELLING = spelling("wanda")
    EXAMPLES: ClassVar = (
        ("wanda-50", "50 % smallest |W|·‖X‖ of each output row"),
        ("wanda-50-owl", "50 % in all, less in layers with many outliers; any share of any mask"),
        ("wanda-2of4", "the 2 largest |W|·‖X‖ of every 4 are kept"),
    )

    method: Literal["wanda"] = "wanda"
    group: Literal["output", "matrix", "threshold"] = "output"

    @model_validator(mode="after")
    def _groups_are_the_pattern(self) -> Self:
        if self.keep is not None and self.group != "output":
            raise ValueError("an N:M pattern counts in its own groups; leave `group` out")
        return self

    @property
    def reads(self) -> Reads:
        """Input norms."""
        return "moments"


class RIA(MaskingRecipe):
    """Drops the smallest (|W_ij|/Σ_j|W_ij| + |W_ij|/Σ_i|W_ij|)·‖X_j‖^power (Zhang et al., "Plug-and-Play", ICLR 2024).

    The paper's permutation of input channels before N:M is left out: in the model's own order, in which its matrices
    read their inputs, the groups would not be N:M any more.

    Attributes:
        power: of the input norms; the paper's a.
        group: among which weights the share is taken. Scores relative to row and column can be compared over the whole
            matrix, which is the paper's choice; or each output row.
    """

    SPELLING = spelling("ria")
    EXAMPLES: ClassVar = (
        ("ria-50", "50 % least relative importance and activation of each matrix"),
        ("ria-2of4", "the 2 of most relative importance of every 4 are kept"),
    )

    method: Literal["ria"] = "ria"
    power: float = Field(default=0.5, ge=0)
    group: Literal["matrix", "output"] = "matrix"

    @property
    def reads(self) -> Reads:
        """Input norms."""
        return "moments"


class DSnoT(MatrixRecipe):
    """Exchanges weights of an earlier mask until its outputs are right on average, without training.

    Zhang et al., "Dynamic Sparse No Training", 2310.08915. It has no share of its own: as many weights are kept in
    every row as before, and in every group of an N:M mask. Weights that come back have their dense values, those of
    removed neurons and heads too: such a recipe cannot come before it.

    Attributes:
        max_cycle: exchanges a row, at most.
        update_threshold: a row whose expected error E[(W − Ŵ)x] is no larger is left as it is. The published code
            compares 0.1 with the sum over a calibration sequence of 2,048 tokens, which is 5e-5 for each.
        pow_of_var: a weight comes back for W·E[x]/Var[x]^power; the power.
    """

    SPELLING = re.compile(r"(?P<method>dsnot)")
    EXAMPLES: ClassVar = (
        (
            "wanda-50+dsnot",
            "wanda-50, then weights exchanged where that lowers the mean error; after any mask of weights",
        ),
    )

    method: Literal["dsnot"] = "dsnot"
    max_cycle: int = Field(default=50, ge=1)
    update_threshold: float = Field(default=5e-5, ge=0)
    pow_of_var: float = Field(default=1.0, ge=0)

    @property
    def reads(self) -> Reads:
        """Mean and variance of the inputs."""
        return "moments"


class SparseGPT(MaskingRecipe):
    """Drops by the optimal brain surgeon's score; the columns that follow make good (Frantar & Alistarh, 2301.00774).

    It needs several times more calibration tokens than a matrix has inputs: with fewer, the weights fit those tokens
    and do worse than Wanda's on all others. More `damping` helps a little.

    Attributes:
        columns: of a block, whose weights are chosen together; with N:M, rounded up to a multiple of M.
        damping: added to the diagonal of the inputs' Gram matrix, as a share of its mean.
        group: among which weights of a column block the share is taken: all rows', as the paper does, or each row's.
    """

    SPELLING = spelling("sparsegpt")
    EXAMPLES: ClassVar = (
        ("sparsegpt-50", "50 % of each block of 128 columns, the other weights updated"),
        ("sparsegpt-2of4", "2 of every 4 weights are kept, the others updated"),
    )

    method: Literal["sparsegpt"] = "sparsegpt"
    columns: int = Field(default=128, ge=1)
    damping: float = Field(default=0.01, gt=0)
    group: Literal["block", "output"] = "block"

    @property
    def reads(self) -> Reads:
        """The Gram matrix."""
        return "gram"


class ADMM(MaskingRecipe):
    """Drops by |W|·‖X‖ little by little, and solves for the weights that stay (Boža, 2401.02938).

    Without a pattern (`wanda-50+admm`) the mask of the recipes before is kept.

    Attributes:
        iterations: of the solver.
        mask_iterations: the first of them, in which the share of masked weights grows (by a cubic) to the whole.
        rho: weight of the mask against the error; the paper's 1.
        damping: added to the diagonal of the Gram matrix of inputs scaled to norm 1.
        group: among which weights the share is taken: the whole matrix, as published, or each output row.
    """

    SPELLING = spelling("admm", also_alone=True)
    EXAMPLES: ClassVar = (
        ("admm-50", "50 % masked little by little while the other weights are solved for"),
        ("admm-2of4", "2 of every 4 weights stay and are solved for"),
        ("wanda-50+admm", "Wanda's mask, the weights that stay solved for"),
    )

    method: Literal["admm"] = "admm"
    iterations: int = Field(default=20, ge=1)
    mask_iterations: int = Field(default=15, ge=1)
    rho: float = Field(default=1.0, gt=0)
    damping: float = Field(default=0.1, gt=0)
    group: Literal["matrix", "output"] = "matrix"

    @model_validator(mode="after")
    def _one_pattern(self) -> Self:
        if self.mask_iterations > self.iterations:
            raise ValueError("`mask_iterations` must be at most `iterations`: the mask would not be reached")
        if self.sparsity is None and self.keep is None and self.block is None and self.ratios == "uniform":
            return self  # the mask of the recipe before
        return self.require_pattern()

    @property
    def reads(self) -> Reads:
        """The Gram matrix."""
        return "gram"
