"""A variant: recipe and mask, one bit a weight, and how a decoder wears it for a while.

The weights themselves are never copied to disk; mask and dense model rebuild them bit for bit.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from pipelines.models.decoder import Decoder
from pipelines.models.sublayer import Sublayer
from pipelines.pruning.masks import Mask
from pipelines.pruning.recipes import Recipe

# Rows of a matrix product under noise `batch`, over those of the dense run.
COPIES = 3


@dataclass(frozen=True)
class Variant:
    """What a recipe did to a model.

    Attributes:
        masks: True where a weight is kept, (outputs, inputs), by the matrix's name.
        dropped: labels of removed sublayers, such as `attn.3`.
        noise: how the unpruned model is computed differently (a kind of `recipes.Noise`); None for a pruned one.
    """

    masks: Mapping[str, Mask] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    noise: str | None = None

    def changes(self, sublayer: Sublayer) -> bool:
        """Whether this sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(name in self.masks for name in sublayer.matrices)

    @property
    def hash(self) -> str:
        """SHA-256 over the packed masks, the dropped sublayers and the kind of noise."""
        digest = hashlib.sha256(json.dumps(sorted(self.dropped)).encode() + (self.noise or "").encode())
        for name in sorted(self.masks):
            digest.update(f"{name}{tuple(self.masks[name].shape)}".encode())
            digest.update(_packed(self.masks[name]).tobytes())
        return digest.hexdigest()

    def weights(self, sublayer: Sublayer) -> dict[str, Tensor]:
        """The pruned weights of one sublayer, by the matrix's name, each in its own layout."""
        pruned = {}
        for name, matrix in sublayer.matrices.items():
            if name in self.masks:
                removed = ~self.masks[name].to(matrix.stored.device)
                pruned[name] = matrix.stored.masked_fill(removed.T if matrix.is_transposed else removed, 0)
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
    """Puts other weights, by matrix name, into the sublayers for a while; the dense ones come back untouched."""
    before: dict[Tensor, Tensor] = {}
    try:
        for sublayer in sublayers:
            for name, matrix in sublayer.matrices.items():
                if name not in weights:
                    continue
                parameter, is_first = matrix.parameter, matrix.parameter not in before
                before.setdefault(parameter, parameter.data)
                if matrix.expert is None:
                    parameter.data = weights[name]
                    continue
                if is_first:  # a stack is copied once; its experts are written into the copy
                    parameter.data = parameter.data.clone()
                parameter.data[matrix.expert] = weights[name]
        del weights  # experts are in the copy now
        yield
    finally:
        for parameter, weight in before.items():
            parameter.data = weight


@contextmanager
def applied(decoder: Decoder, variant: Variant) -> Iterator[None]:
    """The decoder computes as the variant for a while: masked weights swapped in, dropped sublayers add nothing.

    Hooks on its modules see the shapes of the dense model whatever the variant; in bfloat16 they see that type.
    """
    sublayers = list(decoder.sublayers)
    with ExitStack() as stack:
        for sublayer in sublayers:
            stack.enter_context(swapped([sublayer], variant.weights(sublayer)))
            if sublayer.label in variant.dropped:
                stack.enter_context(sublayer.dropped())
        stack.enter_context(_noisy(decoder, variant.noise))
        yield


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
    linears = [
        module
        for sublayer in decoder.sublayers
        for mixer in sublayer.mixers
        for module in mixer.modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
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


def _packed(mask: Mask) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.cpu().numpy().reshape(-1))
