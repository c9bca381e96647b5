"""A pruned copy of a decoder with its own weights, independent of weight swapping; its logits; massive activations."""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.sublayer import Branch, Sublayer
from prunescope.pipelines.pruning.variant import Variant
from tests.tiny_models import save_tiny

# The first token that discovery reads, of 300.
FIRST = int(torch.randint(0, 300, (1, 12), generator=torch.Generator().manual_seed(0))[0, 0])
TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61, 2, 17, 4, 99, 180, 41]])


def logits(model: nn.Module) -> Tensor:
    """Return a model's logits for `TOKENS`, in a pass without a cache."""
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS, use_cache=False).logits
    return found


def save_massive(folder: Path, architecture: str = "qwen2") -> Path:
    """Save a random decoder with a channel of 10,000 times the usual size in one token; its biases, if any, are 300."""
    file = save_tiny(folder, architecture) / "model.safetensors"
    weights, generator = load_file(file), torch.Generator().manual_seed(1)
    weights["model.embed_tokens.weight"][FIRST, 7] *= 1e4
    for name, weight in weights.items():
        if name.endswith(("q_proj.bias", "k_proj.bias")):
            # In the channels that turn slowest, as Qwen2.5's: faster ones would attend to one token alone.
            slow = weight.view(-1, 2, 8)[:, :, -1:]
            slow += 300 * (2 * torch.randint(0, 2, slow.shape, generator=generator) - 1)
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def copy_of(decoder: Decoder) -> Decoder:
    """Return a deep copy of a decoder that refers to the copied modules."""
    model = copy.deepcopy(decoder.model)
    copies = dict(zip(decoder.model.modules(), model.modules(), strict=True))

    def part(own: Branch) -> Branch:
        return replace(own, chain=tuple(copies[module] for module in own.chain))

    def sublayer(own: Sublayer) -> Sublayer:
        modules = {name: copies[module] for name, module in own.modules.items()}
        return replace(own, host=copies[own.host], parts=tuple(part(each) for each in own.parts), modules=modules)

    layers = tuple(
        replace(layer, module=copies[layer.module], attn=sublayer(layer.attn), mlp=sublayer(layer.mlp))
        for layer in decoder.layers
    )
    return replace(decoder, model=model, trunk=copies[decoder.trunk], layers=layers, skips=None)


def write_masks(copied: Decoder, variant: Variant, names: set[str]) -> None:
    """Set the masked weights of some matrices of the copy to zero in place."""
    weights: dict[str, nn.Parameter] = dict(copied.model.named_parameters())
    modules = dict(copied.model.named_modules())
    for name in names:
        mask = variant.masks[name]
        stem, _, expert = name.partition("[")
        weight: Tensor = weights[stem].data[int(expert[:-1])] if expert else modules[name].weight.data
        # Stored (in, out): Conv1D, and the stacks of these as their code multiplies them.
        is_stack = bool(expert) and type(copied.model).__name__.startswith(("GptOss", "Llama4", "RecurrentGemma"))
        is_transposed = is_stack or type(modules.get(name)).__name__ == "Conv1D"
        with torch.no_grad():
            weight.mul_(mask.T if is_transposed else mask)


def write_zeros(copied: Decoder, labels: set[str]) -> None:
    """Set all parameters of some sublayers of the copy to zero, so that they add nothing."""
    for each in copied.sublayers:
        if each.label in labels:
            for mixer in each.mixers:
                for parameter in mixer.parameters():
                    torch.nn.init.zeros_(parameter)
