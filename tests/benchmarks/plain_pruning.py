"""Pruning in plain torch as the papers' own scripts do it: a baseline for machines where they never ran.

One sequence at a time, a hook on every linear module, Hessians in float32, whole sorts for thresholds, a Python loop
over columns. Weights are changed in place and put back; results only have to be right, not fast.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.pruning.calibration.layerwise_forward import Streams

COLUMNS = 128
Solve = Callable[[Float[Tensor, "out in"], Float[Tensor, "in in"]], Tensor]


@contextmanager
def put_back(decoder: Decoder) -> Iterator[None]:
    """Restore the dense weights at the end."""
    before = {matrix.parameter: matrix.parameter.data.clone() for matrix in decoder.matrices.values()}
    try:
        yield
    finally:
        for parameter, weight in before.items():
            parameter.data = weight


@torch.inference_mode()
def plain_magnitude(decoder: Decoder) -> None:
    """Prune half of every matrix by magnitude, with a whole sort."""
    for matrix in decoder.matrices.values():
        weight = matrix.weight
        threshold = weight.abs().flatten().sort().values[weight.numel() // 2]
        weight[weight.abs() <= threshold] = 0


@torch.inference_mode()
def plain_layers(decoder: Decoder, tokens: Int[Tensor, "sequences length"], solve: Solve, *, squares: bool) -> None:
    """Go layer by layer: inputs of every linear module by a hook, its new weight, the pruned layer once more."""
    streams = [Streams(decoder, sequence[None]) for sequence in tokens]
    modules = dict(decoder.model.named_modules())
    for index, layer in enumerate(decoder.layers):
        linears = {modules[name]: matrix for each in layer.sublayers for name, matrix in each.matrices.items()}
        seen: dict[nn.Module, Tensor] = {}

        def note(module: nn.Module, args: tuple[Tensor], _: Tensor, seen: dict[nn.Module, Tensor] = seen) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            found = rows.square().sum(dim=0) if squares else rows.T @ rows
            seen[module] = seen[module] + found if module in seen else found

        with hooks(*(module.register_forward_hook(note) for module in linears)):
            for stream in streams:
                stream.copy().advance(index)
        for module, matrix in linears.items():
            matrix.weight.copy_(solve(matrix.weight, seen[module]))
        for stream in streams:
            stream.advance(index)


def plain_wanda(weight: Float[Tensor, "out in"], squares: Float[Tensor, " in"]) -> Float[Tensor, "out in"]:
    """Prune half of every row by |W|·‖X‖ (2306.11695, algorithm 1)."""
    order = (weight.abs() * squares.sqrt()).sort(dim=1, stable=True).indices
    return weight.scatter(1, order[:, : weight.shape[1] // 2], 0)


def plain_sparsegpt(weight: Float[Tensor, "out in"], hessian: Float[Tensor, "in in"]) -> Float[Tensor, "out in"]:
    """Prune half of every block of columns, with errors carried to the right (2301.00774, algorithm 1)."""
    weight, hessian = weight.clone(), hessian.clone()
    diagonal = torch.arange(len(hessian))
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian[diagonal, diagonal] += 0.01 * hessian.diagonal().mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for start in range(0, weight.shape[1], COLUMNS):
        end = min(start + COLUMNS, weight.shape[1])
        block, root = weight[:, start:end], inverse[start:end, start:end]
        errors = torch.zeros_like(block)
        scores = block.square() / root.diagonal().square()
        removed = scores <= scores.flatten().sort().values[scores.numel() // 2]
        for column in range(end - start):
            kept = block[:, column].masked_fill(removed[:, column], 0)
            errors[:, column] = (block[:, column] - kept) / root[column, column]
            block[:, column:] -= errors[:, column, None] * root[None, column, column:]
            block[:, column] = kept
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return weight
