"""A variant: recipe and mask, one bit a weight, and how a decoder wears it for a while.

The weights themselves are never copied to disk; mask and dense model rebuild them bit for bit.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipelines.errors import ComputationError, InputError
from pipelines.models.decoder import Decoder, Sublayer, state_argument, weight_matrix
from pipelines.pruning.masks import Mask
from pipelines.pruning.recipes import Recipe

# Rows of a matrix product under noise `batch`, over those of the dense run.
COPIES = 3


@dataclass(frozen=True)
class Variant:
    """What a recipe did to a model.

    Attributes:
        masks: True where a weight is kept, (outputs, inputs), by the linear module's name.
        dropped: labels of removed sublayers, such as `attn.3`.
        noise: how the unpruned model is computed differently (a kind of `recipes.Noise`); None for a pruned one.
    """

    masks: Mapping[str, Mask] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    noise: str | None = None

    def changes(self, sublayer: Sublayer) -> bool:
        """Whether this sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(name in self.masks for name in sublayer.linears)

    @property
    def hash(self) -> str:
        """SHA-256 over the packed masks, the dropped sublayers and the kind of noise."""
        digest = hashlib.sha256(json.dumps(sorted(self.dropped)).encode() + (self.noise or "").encode())
        for name in sorted(self.masks):
            digest.update(f"{name}{tuple(self.masks[name].shape)}".encode())
            digest.update(_packed(self.masks[name]).tobytes())
        return digest.hexdigest()

    def weights(self, sublayer: Sublayer) -> dict[str, Tensor]:
        """The pruned weights of one sublayer, by module name, in the module's own layout."""
        pruned = {}
        for name, linear in sublayer.linears.items():
            if name in self.masks:
                matrix = weight_matrix(linear)
                masked = matrix.masked_fill(~self.masks[name].to(matrix.device), 0)
                pruned[name] = masked if matrix is linear.weight else masked.T
        return pruned

    def save(self, file: Path, recipe: Recipe, weight_hash: str) -> None:
        """Writes all of it (masks one bit a weight) and the recipe as safetensors; the caller makes it atomic."""
        packed = {name: _packed(mask) for name, mask in self.masks.items()}
        about = {
            "shapes": json.dumps({name: list(mask.shape) for name, mask in self.masks.items()}),
            "dropped": json.dumps(list(self.dropped)),
            "noise": self.noise or "",
            "recipe": recipe.parameters_json,
            "weight_hash": weight_hash,
            "mask_hash": self.hash,
        }
        save_file(packed, file, metadata=about)


def load_variant(file: Path, weight_hash: str) -> Variant:
    """Reads a variant file back.

    Raises:
        InputError: the file is missing, damaged, or belongs to other weights.
    """
    from safetensors import safe_open

    try:
        with safe_open(file, framework="np") as opened:
            about = opened.metadata()
        packed = load_file(file)
        shapes = {name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()}
        dropped = tuple(json.loads(about["dropped"]))
        noise = about.get("noise") or None  # files written before there was noise have no such key
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: no readable variant file; run the recipe again") from error
    if about["weight_hash"] != weight_hash:
        raise InputError(f"{file}: belongs to other weights of the model; run the recipe again")
    masks = {
        name: torch.from_numpy(np.unpackbits(packed[name], count=rows * columns).astype(bool).reshape(rows, columns))
        for name, (rows, columns) in shapes.items()
    }
    variant = Variant(masks, dropped, noise)
    if variant.hash != about["mask_hash"]:
        raise InputError(f"{file}: its masks are not the ones it was written with; run the recipe again")
    return variant


@contextmanager
def swapped(sublayers: list[Sublayer], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Puts other weights, by module name, into the sublayers for a while; the dense ones come back untouched."""
    before: list[tuple[nn.Linear | Conv1D, Tensor]] = []
    try:
        for sublayer in sublayers:
            for name, linear in sublayer.linears.items():
                if name in weights:
                    before.append((linear, linear.weight.data))
                    linear.weight.data = weights[name]
        yield
    finally:
        for module, weight in before:
            module.weight.data = weight


@contextmanager
def applied(decoder: Decoder, variant: Variant) -> Iterator[None]:
    """The decoder computes as the variant for a while: masked weights swapped in, dropped sublayers skipped.

    Hooks on its modules see the shapes of the dense model whatever the variant; in bfloat16 they see that type.
    """
    sublayers = list(decoder.sublayers)
    weights = {name: tensor for sublayer in sublayers for name, tensor in variant.weights(sublayer).items()}
    dropped = [sublayer for sublayer in sublayers if sublayer.label in variant.dropped]
    with swapped(sublayers, weights), _noisy(decoder, variant.noise):
        for sublayer in dropped:
            sublayer.mixer.forward = _zeros(sublayer.returns)
            if sublayer.contribution is not sublayer.mixer:  # a norm with a bias would still add something
                sublayer.contribution.forward = _zeros(0)
        try:
            yield
        finally:
            for sublayer in dropped:
                for module in {sublayer.mixer, sublayer.contribution}:
                    del module.forward


@contextmanager
def _noisy(decoder: Decoder, kind: str | None) -> Iterator[None]:
    """The dense model computed differently for a while."""
    match kind:
        case "bfloat16":
            with _in_bfloat16(decoder.trunk):
                yield
        case "batch":
            with _at_another_batch_shape(decoder):
                yield
        case None:
            yield
        case _:
            raise ComputationError(f"a variant of noise {kind!r}, which this version does not know")


@contextmanager
def _in_bfloat16(trunk: nn.Module) -> Iterator[None]:
    """All weights below the head in bfloat16, and with them the activations.

    Buffers keep their type: rotary frequencies rounded to 8 bits would be another model. The head keeps a view of its
    own of the weights, so that a tied embedding does not round it.
    """
    before = [(parameter, parameter.data) for parameter in trunk.parameters()]
    try:
        for parameter, data in before:
            parameter.data = data.bfloat16()
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


@contextmanager
def _at_another_batch_shape(decoder: Decoder) -> Iterator[None]:
    """Every matrix product of the layers runs with copies of its rows, of which the first come back.

    What else a layer computes, it computes row by row, whatever the batch; so everything outside the products, hooks
    and caches included, keeps its shape.
    """
    linears = [linear for sublayer in decoder.sublayers for linear in sublayer.linears.values()]
    try:
        for linear in linears:
            linear.forward = _with_copies(linear.forward)  # type: ignore[method-assign]
        yield
    finally:
        for linear in linears:
            linear.__dict__.pop("forward", None)


def _with_copies(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def repeated(rows: Tensor) -> Tensor:
        return forward(rows.repeat(COPIES, *[1] * (rows.dim() - 1)))[: len(rows)]

    return repeated


def _zeros(returns: int) -> Any:  # noqa: ANN401 (stands in for a bound forward)
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (any module's signature)
        state = state_argument(args, kwargs)
        if state is None:
            raise ComputationError("a dropped sublayer was called without a state")
        zeros = torch.zeros_like(state)
        return (zeros, *[None] * (returns - 1)) if returns else zeros

    return forward


def _packed(mask: Mask) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.cpu().numpy().reshape(-1))
