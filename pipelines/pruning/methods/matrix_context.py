"""What a method is given of one matrix. Nothing is computed here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import Mask


@dataclass(frozen=True)
class MatrixContext:
    """One matrix, as a method sees it.

    Attributes:
        name: the matrix's.
        layer: its layer, from 0.
        weight: as it is now, after the recipes before in a composition, (outputs, inputs) in the model's type.
        dense: as it was before all pruning: in the dense model, or in the checkpoint that a composition begins with.
        kept: what an earlier recipe of a composition left; None where nothing was masked.
        inputs: of the calibration tokens; None where the recipe reads none, or no token reached it.
        sparsity: share of the weights to set to zero; None for an N:M pattern and for recipes that mask nothing.
        facts: what a method tells about its work, by name; numbers are added up over the matrices.
    """

    name: str
    layer: int
    weight: Float[Tensor, "out in"]
    dense: Float[Tensor, "out in"]
    kept: Mask | None = None
    inputs: ActivationMoments | None = None
    sparsity: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def reached(self, recipe: str) -> ActivationMoments:
        """Its inputs.

        Raises:
            InputError: no calibration token reached it.
        """
        if self.inputs is None:
            raise InputError(
                f"recipe {recipe}: no calibration token reached {self.name}; raise calibration.sequences, "
                "leave it out with `modules`, or as it is with `unreached: dense`"
            )
        return self.inputs


@contextmanager
def about(name: str) -> Iterator[None]:
    """Errors from inside say which matrix they are about."""
    try:
        yield
    except (ComputationError, InputError) as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
