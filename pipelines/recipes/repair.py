"""The recipe that repairs what earlier recipes of a composition did, in closed form. No torch here."""

import re
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from prunescope.pipelines.recipes.base import BaseRecipe


class RepairRecipe(BaseRecipe):
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
    bias: bool = True
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

    @property
    def is_calibrated(self) -> bool:
        """Return True: every repair is fitted on the calibration tokens."""
        return True

    def require_place(self, earlier: tuple[BaseRecipe, ...], *, is_last: bool) -> None:
        """Raise a ValueError unless the recipe comes last in its composition and has something to repair."""
        if not earlier:
            raise ValueError(f"{self.name} repairs an earlier recipe; write it after one, as in wanda-50+affine")
        if not is_last:
            raise ValueError(f"{self.name} repairs all that is before it; put it last")
        drops = {each.method.endswith("-drop") for each in earlier}
        if not self.bias and drops == {True}:
            raise ValueError(f"{self.name} has nothing to scale after drops alone; write affine")
        if self.rank and drops == {False} and not any(each.method == "external" for each in earlier):
            raise ValueError(f"{self.name} stands in for dropped sublayers, and none is dropped; write affine")
