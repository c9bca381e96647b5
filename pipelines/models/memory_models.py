"""Models that are in memory already: their identity, and the state in which a loaded model is measured."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from prunescope.pipelines.models.sources import ModelIdentity


def identify_in_memory(model: nn.Module, tokenizer: Any) -> ModelIdentity:  # noqa: ANN401 - any tokenizer
    """Return the SHA-256 of a model's config, parameters and buffers, by name, and of its tokenizer."""
    weights = hashlib.sha256(cast(Any, model).config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        weights.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    described = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer.chat_template]
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return ModelIdentity(weights.hexdigest(), hashlib.sha256(repr(described).encode()).hexdigest(), size)


@contextmanager
def as_loaded(model: nn.Module) -> Iterator[None]:
    """Put a model into the state in which `load_model` returns one; restore its own state at the end."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
        experts = getattr(cast(Any, model).config, "_experts_implementation", None)
        if experts not in {None, "eager"}:
            stack.callback(cast(Any, model).set_experts_implementation, experts)
            cast(Any, model).set_experts_implementation("eager")
        model.eval().requires_grad_(False)
        yield
