"""Recipes that repair what earlier recipes of a composition did, in closed form or by training. No torch here."""

import re
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from prunescope.pipelines.recipes.base import BaseRecipe
from prunescope.pipelines.recipes.quantization import QuantizationRecipe


class Repair(BaseRecipe):
    """A recipe that moves what earlier recipes of a composition changed towards the dense model."""

    bias: bool = True

    @property
    def is_calibrated(self) -> bool:
        """Return True: every repair is fitted on the calibration tokens."""
        return True

    def require_place(self, earlier: tuple[BaseRecipe, ...], later: tuple[BaseRecipe, ...]) -> None:
        """Raise a ValueError unless earlier recipes are there to repair, and no later one needs a repair of its own."""
        if not earlier:
            raise ValueError(f"{self.name} repairs an earlier recipe; write it after one, as in wanda-50+affine")
        if later:
            raise ValueError(f"{self.name} repairs all that is before it; put it last")


class RepairRecipe(Repair):
    """A scale per channel and a bias for every changed sublayer, fitted to the dense model by ridge regression.

    The layers are repaired in order, each on the stream x̂ of the pruned model with all earlier repairs. What a sublayer
    adds there, y, is fitted to the dense sublayer's contribution plus x − x̂, the error of the stream before it, so that
    the stream after it is right. The scales are multiplied into the rows of the output projection, whose zeros stay
    zero, and the bias is its bias (bias correction, Nagel et al., 1906.04721). A module that has no place for a bias,
    such as a mixture of experts, is only scaled. If a norm follows the projection, the norm is scaled instead.

    A dropped sublayer is replaced by a constant, the mean of what is missing, or by a constant and a linear map of what
    the sublayer would read (idea: ReplaceMe, 2505.02819; LinearPatch, 2505.24680). The map's rank is limited by
    reduced-rank ridge regression (Mukherjee and Zhu, 2011).

    The last of the calibration sequences are held out from the repair. The KL on them, with and without it, is among
    the variant's facts, with the interval of the difference and a note that says whether the repair lowers the KL. The
    earlier recipes may have been fitted on these sequences too, so both KLs may be smaller than on other text.

    Attributes:
        bias: whether to add biases, and constants in place of dropped sublayers.
        rank: rank of the linear map in place of a dropped sublayer; 0 is the constant alone.
        damping: weight of the penalty that pulls scales to 1, as a share of each channel's sum of squares.
        map_damping: weight of the penalty that pulls maps to 0, added to the diagonal of the Gram matrix of what they
            read, as a share of its mean. On SmolLM2-135M with 1,024 and 2,560 tokens, 1 explains most of the attention
            of other text; 0.01 overfits and is worse than a constant.
    """

    SPELLING = re.compile(r"affine|(?P<scale>rescale)|linear-(?P<rank>[1-9]\d*)")
    EXAMPLES: ClassVar = (
        ("wanda-50+affine", "wanda-50, then each changed sublayer rescaled and shifted to the dense model's output"),
        ("wanda-50+rescale", "the same without biases, which fits every checkpoint"),
        ("attn-drop-4+affine", "attn-drop-4, with a constant in place of each dropped sublayer"),
        ("attn-drop-4+linear-16", "attn-drop-4, with a constant and a linear map of rank 16 in their place"),
    )

    method: Literal["repair"] = "repair"
    rank: int = Field(default=0, ge=0, le=2**24)
    damping: float = Field(default=0.01, gt=0)
    map_damping: float = Field(default=1.0, gt=0)

    @classmethod
    def spelled(cls, match: re.Match[str]) -> dict[str, object]:
        """Parse `rescale` as a repair without biases."""
        fields = super().spelled(match)
        return {"method": "repair"} | ({"bias": False} if fields.pop("scale", None) else fields)

    @model_validator(mode="after")
    def _maps_have_constants(self) -> "RepairRecipe":
        if self.rank and not self.bias:
            raise ValueError("`rank` needs `bias: true`: a linear map comes with its constant")
        return self

    def require_place(self, earlier: tuple[BaseRecipe, ...], later: tuple[BaseRecipe, ...]) -> None:
        """Raise a ValueError unless there is something to repair, and at most a training follows."""
        super().require_place(earlier, () if isinstance(later[0] if later else None, DistillRecipe) else later)
        drops = {each.method.endswith("-drop") for each in earlier}
        if not self.bias and drops == {True}:
            raise ValueError(f"{self.name} has nothing to scale after drops alone; write affine")
        if self.rank and drops == {False} and not any(each.method == "external" for each in earlier):
            raise ValueError(f"{self.name} stands in for dropped sublayers, and none is dropped; write affine")


class DistillRecipe(Repair):
    """Gains, biases and scales trained by backpropagation, so that the variant's probabilities are the dense model's.

    Trained are the gains of all norms in the layers, their biases, a scale per channel and a bias of every changed
    sublayer, and a constant in place of each dropped one (or the map that a repair before it has put there), by
    KL(dense ‖ variant) on the calibration tokens (distillation: Hinton et al., 1503.02531) with Adam. It is the control
    for the closed forms of `RepairRecipe`, with the same held-out sequences, and may follow one.

    Attributes:
        bias: whether to train biases, and constants in place of dropped sublayers.
        weights: whether to train the changed matrices too; their zeros stay zero.
        steps: number of updates.
        batch: sequences per update.
        learning_rate: largest change of a value per update, as a share of its vector's root mean square; of a matrix,
            a tenth of it.
        seed: of the order of the sequences.
    """

    SPELLING = re.compile(r"(?P<method>distill)")
    EXAMPLES: ClassVar = (("wanda-50+distill", "wanda-50, then gains, biases and scales trained to the dense model"),)

    method: Literal["distill"] = "distill"
    weights: bool = False
    steps: int = Field(default=40, ge=1)
    batch: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=0.01, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    def require_place(self, earlier: tuple[BaseRecipe, ...], later: tuple[BaseRecipe, ...]) -> None:
        """Raise a ValueError unless there is something to repair, and matrices to train if they are asked for."""
        super().require_place(earlier, later)
        if self.weights and any(isinstance(each, QuantizationRecipe) for each in earlier):
            raise ValueError("codes of quantized weights cannot be trained; leave `weights` out")
        if self.weights and all(each.method.endswith("-drop") for each in earlier):
            raise ValueError("drops leave no changed weights to train; leave `weights` out")
