"""SparseGPT on a whole model against Algorithm 1 of the paper, with the inverse written out, in float64.

Masks depend on the inputs that the statistics are taken from. Layers are pruned in sequence (2301.00774 §4); as in the
authors' code, all matrices of a layer are measured in one pass through the layer while it is still dense. Measured one
after the other behind the pruned ones of their own layer, or behind dense layers, masks have a mean Jaccard index of
0.97 with these.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.reference_models import copy_of

BLOCK = 128
WITHIN = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def algorithm_1(weight: Tensor, x: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """Return the weights and mask: blocks of 128 columns, 1 % of the mean diagonal as damping, lazy updates."""
    weight, gram = weight.double().clone(), x.double().T @ x.double()
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(gram), upper=True)
    keep = torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        scores = (weight[:, start:end] / upper.diagonal()[start:end]).square()
        lowest = scores.reshape(-1).argsort(stable=True)[: round(scores.numel() * sparsity)]
        keep[:, start:end].view_as(scores).masked_fill_(
            torch.zeros(scores.numel(), dtype=torch.bool).index_fill(0, lowest, True).reshape(scores.shape), False
        )
        errors = torch.zeros_like(scores)
        for column in range(start, end):
            kept = torch.where(keep[:, column], weight[:, column], 0)
            errors[:, column - start] = (weight[:, column] - kept) / upper[column, column]
            weight[:, column:end] -= errors[:, column - start, None] * upper[column, column:end]
            weight[:, column] = kept
        weight[:, end:] -= errors @ upper[start:end, end:]
    return weight, keep


def inputs_of(decoder: Decoder, modules: list[nn.Module], tokens: Tensor) -> dict[nn.Module, Tensor]:
    inputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, args: tuple[Tensor]) -> None:
        inputs[module] = args[0].clone()

    with hooks(*(module.register_forward_pre_hook(record) for module in modules)):
        decoder.hidden(tokens)
    return inputs


def masks_of(decoder: Decoder, tokens: Tensor, within: tuple[tuple[str, ...], ...]) -> dict[str, Tensor]:
    """Prune a copy layer by layer; `within` groups a layer's matrices that are measured in one pass."""
    pruned, masks = copy_of(decoder), {}
    modules = dict(pruned.model.named_modules())
    for layer in range(len(decoder.layers)):
        for kinds in within:
            ends = tuple(f".{kind}" for kind in kinds)
            names = [name for name in modules if f"layers.{layer}." in name and name.endswith(ends)]
            inputs = inputs_of(pruned, [modules[name] for name in names], tokens)
            for name in names:
                module = modules[name]
                weight, masks[name] = algorithm_1(module.weight.data, inputs[module].flatten(end_dim=1), 0.5)
                module.weight.data = weight.float()
    return masks


@pytest.fixture(scope="module")
def decoder(tiny_folder: Path) -> Decoder:
    decoder = load_decoder(tiny_folder)
    for matrix in decoder.matrices.values():
        matrix.parameter.data.mul_(6)  # random weights of the usual size hardly change the stream
    return decoder


@torch.inference_mode()
def test_masks_are_those_of_algorithm_1_with_a_layer_measured_while_it_is_dense(decoder: Decoder) -> None:
    tokens = torch.randint(0, 300, (16, 64), generator=torch.Generator().manual_seed(1))
    ours = prune(decoder, parse_recipe("sparsegpt-50"), tokens=tokens).masks

    def jaccard(others: dict[str, Tensor]) -> float:
        shares = [float((mask & ours[name]).sum() / (mask | ours[name]).sum()) for name, mask in others.items()]
        return sum(shares) / len(shares)

    assert jaccard(masks_of(decoder, tokens, (sum(WITHIN, ()),))) > 0.999
    assert jaccard(masks_of(decoder, tokens, WITHIN)) < 0.99
