"""A sublayer whose contribution a repair scales and shifts, through the parameters that it has.

Which scales and biases are right is decided in `repair.py` and `distill.py`.
"""

from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.output_head import find_final_norm
from prunescope.pipelines.metrics.rounding import allowed
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall, has_matrix
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.pruning.layer_checkpoints import overlay
from prunescope.pipelines.pruning.output_projection import biased_matrix, output_projections
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import swap_weights
from prunescope.pipelines.pruning.weight_delta import WeightDelta


class RepairTarget:
    """A sublayer to repair, with the parameters that scale and shift what it adds.

    `call` is a call of the dense sublayer, on which each repair is proved.
    """

    def __init__(self, decoder: Decoder, sublayer: Sublayer, call: SublayerCall) -> None:
        self.decoder, self.sublayer, self._call = decoder, sublayer, call
        self._projections = output_projections(sublayer, call, decoder.width)

    @property
    def takes_bias(self) -> bool:
        """Return whether a vector can be added to what the sublayer adds through a parameter."""
        last = self.sublayer.parts[0].chain[-1]
        has_bias = not has_matrix(last) and getattr(last, "bias", None) is not None
        return has_bias or biased_matrix(self.sublayer, self._projections) is not None

    def repaired(self, variant: Variant, scale: Float64[Tensor, " width"], bias: Float64[Tensor, " width"]) -> Variant:
        """Return the variant in which the sublayer adds scale·y + bias in place of y.

        Raises:
            InputError: the probe shows that it then adds something else.
        """
        changes: dict[str, WeightDelta] = {}
        vectors: dict[str, Tensor] = {}
        names = {module: name for name, module in self.sublayer.modules.items()}
        for number, (branch, matrices) in enumerate(zip(self.sublayer.parts, self._projections, strict=True)):
            shift = bias / branch.multiplier if number == 0 and bool(bias.any()) else None
            last = branch.chain[-1]
            if has_matrix(last):
                for matrix in matrices:
                    change = variant.changes.get(matrix.name, WeightDelta(matrix.shape))
                    changes[matrix.name] = change.scaled(scale, matrix.weight)
                biases = {_bias_name(matrix) for matrix in matrices}
            else:  # a norm after the projection undoes the scale of its rows, so its gain is scaled
                name, biases = f"{names[last]}.weight", {f"{names[last]}.bias"}
                if (gain := self._vector(variant, name)) is not None:
                    offset = float(find_final_norm(last, self.decoder.width).kind.endswith("plus_one"))
                    vectors[name] = (gain + offset) * scale - offset
            for name in biases:
                before = self._vector(variant, name)
                scaled = shift if before is None else before * scale if shift is None else before * scale + shift
                if scaled is not None:
                    vectors[name] = scaled
        dtype = self.decoder.dtype
        parameters = {**variant.parameters, **{name: value.to("cpu", dtype) for name, value in vectors.items()}}
        repaired = replace(variant, changes=overlay(changes, variant.changes), parameters=parameters)
        self._prove(variant, repaired, scale, bias)
        return repaired

    def _vector(self, variant: Variant, name: str) -> Tensor | None:
        """Return a gain or bias as earlier recipes left it, or None if the module has none."""
        module, _, key = name.rpartition(".")
        value = variant.parameters.get(name, getattr(self.sublayer.modules[module], key, None))
        return None if value is None else value.to(self.decoder.device, torch.float64)

    def _prove(
        self,
        before: Variant,
        after: Variant,
        scale: Float64[Tensor, " width"],
        bias: Float64[Tensor, " width"],
    ) -> None:
        added = []
        for variant in (before, after):
            with swap_weights(self.sublayer, variant.weights(self.sublayer)):
                added.append(self.sublayer.recompute(self._call).double().to(scale.device))
        scaled = added[0] * scale
        expected = scaled + bias
        size = max(scaled.norm(), expected.norm())
        if not (added[1] - expected).norm() <= allowed(self.decoder.rounding, self.decoder.dtype) * size:
            raise InputError(
                f"{self.sublayer.name}: scaling its output projection does not scale what it adds; leave the repair out"
            )


def _bias_name(matrix: Matrix) -> str:
    """Return the name that the bias of a matrix has, if there is one; all experts of a stack share a parameter."""
    stem, _, expert = matrix.name.partition("[")
    return f"{stem}_bias" if expert else f"{stem}.bias"
