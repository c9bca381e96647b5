"""The matrices that write what a sublayer adds to the stream, found by the order of their products.

What a repair or a checkpoint does with them is in `repair.py` and `checkpoints`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall, has_matrix
from prunescope.pipelines.models.weight_matrices import Matrix, Products
from prunescope.pipelines.recipes.mixed import part_of

PROBE_TOKENS = 12


@torch.inference_mode()
def last_matrices(decoder: Decoder) -> dict[str, list[Matrix]]:
    """Return one matrix of each branch's output projection, by the sublayer's label; see `output_projections`."""
    sublayers = list(decoder.sublayers)
    calls = decoder.calls_of(sublayers, probe_tokens(decoder, PROBE_TOKENS, seed=1))
    projections = {each.label: output_projections(each, calls[each.label], decoder.width) for each in sublayers}
    return {label: [matrices[0] for matrices in branches if matrices] for label, branches in projections.items()}


def products_of(sublayer: Sublayer, call: SublayerCall) -> list[Matrix]:
    """Return a sublayer's matrices in the order of their products."""
    order: list[Matrix] = []
    with sublayer.on_device():
        by_address = {matrix.address: matrix for matrix in sublayer.matrices.values()}

        def observe(_: Tensor, operand: Tensor) -> None:
            known = (by_address.get(each.data_ptr()) for each in (operand if operand.dim() == 3 else [operand]))
            order.extend(matrix for matrix in known if matrix is not None)

        with Products(observe):
            sublayer.recompute(call)
    return order


def output_projections(sublayer: Sublayer, call: SublayerCall, width: int) -> list[list[Matrix]]:
    """Return, per branch, the last matrix that writes `width` outputs and its namesakes, such as those of all experts.

    `call` is a call of the dense sublayer. A branch without a known product has none.
    """
    order = products_of(sublayer, call)
    found = []
    for branch in sublayer.parts:
        own = {id(parameter) for mixer in branch.mixers for parameter in mixer.parameters()}
        last = [matrix for matrix in order if id(matrix.parameter) in own and matrix.shape[0] == width][-1:]
        parts = {part_of(matrix.name) for matrix in last}
        found.append([m for m in sublayer.matrices.values() if id(m.parameter) in own and part_of(m.name) in parts])
    return found


def biased_matrix(sublayer: Sublayer, projections: Sequence[Sequence[Matrix]]) -> Matrix | None:
    """Return the matrix whose module's bias is added to the stream as it is, up to a multiplier, or None."""
    branch, matrices = sublayer.parts[0], projections[0]
    is_plain = has_matrix(branch.chain[-1]) and not branch.is_post_norm
    return matrices[0] if is_plain and len(matrices) == 1 and matrices[0].expert is None else None
