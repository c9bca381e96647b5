"""Which formula a model's final norm computes, found by trying each on random states and not by its class's name."""

import torch
from torch import nn

from pipelines.errors import InputError
from pipelines.metrics.heads import Norm

_EPSILON_NAMES = ("variance_epsilon", "eps", "epsilon", "layer_norm_eps")


def find_norm(module: nn.Module, name: str) -> Norm:
    """The formula of a norm module.

    Raises:
        InputError: it is none of RMS norm, RMS norm with gain 1 + w, and LayerNorm.
    """
    eps = next(
        (float(getattr(module, key)) for key in _EPSILON_NAMES if isinstance(getattr(module, key, None), float)), 0.0
    )
    parameters = dict(module.named_parameters())
    weight, bias = parameters.get("weight"), parameters.get("bias")
    reference = weight if weight is not None else next(module.parameters(), None)
    if reference is None or reference.dim() != 1:
        raise InputError(f"{name}: a final norm without a gain vector is not supported")
    generator = torch.Generator().manual_seed(0)
    # Uneven lengths and a mean, so that no two formulas agree by chance.
    states = (
        torch.randn(6, reference.shape[0], generator=generator) * torch.tensor([0.01, 0.1, 1, 3, 10, 100])[:, None]
        + 0.3
    )
    given = states.to(reference)
    truth = module(given).float()
    tolerance = 1e-5 if reference.dtype == torch.float32 else 2e-2
    gain = weight.float() if weight is not None else None
    offset = bias.float() if bias is not None else None
    for kind in ("rms", "rms_plus_one", "layer"):
        norm = Norm(kind=kind, eps=eps, weight=gain, bias=offset)
        formula, _ = norm.shift(given.float(), torch.zeros_like(given, dtype=torch.float32))
        if bool((formula - truth).norm() <= tolerance * truth.norm()):
            return norm
    raise InputError(f"{name}: the final norm is neither an RMS norm nor a LayerNorm")
