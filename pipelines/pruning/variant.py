"""A variant: recipe and mask, one bit a weight, and how a decoder wears it for a while.

The weights themselves are never copied to disk; mask and dense model rebuild them bit for bit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from pipelines.errors import InputError
from pipelines.models.decoder import Decoder
from pipelines.models.sublayer import Sublayer
from pipelines.pruning.masks import Mask
from pipelines.pruning.recipes import Recipe


@dataclass(frozen=True)
class Variant:
    """What a recipe did to a model.

    Attributes:
        masks: True where a weight is kept, (outputs, inputs), by the matrix's name.
        dropped: labels of removed sublayers, such as `attn.3`.
    """

    masks: Mapping[str, Mask] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()

    def changes(self, sublayer: Sublayer) -> bool:
        """Whether this sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(name in self.masks for name in sublayer.matrices)

    @property
    def hash(self) -> str:
        """SHA-256 over the packed masks and the dropped sublayers."""
        digest = hashlib.sha256(json.dumps(sorted(self.dropped)).encode())
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
        """Writes masks (one bit a weight), dropped sublayers and recipe as safetensors; the caller makes it atomic."""
        packed = {name: _packed(mask) for name, mask in self.masks.items()}
        about = {
            "shapes": json.dumps({name: list(mask.shape) for name, mask in self.masks.items()}),
            "dropped": json.dumps(list(self.dropped)),
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
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: no readable variant file; run the recipe again") from error
    if about["weight_hash"] != weight_hash:
        raise InputError(f"{file}: belongs to other weights of the model; run the recipe again")
    masks = {
        name: torch.from_numpy(np.unpackbits(packed[name], count=rows * columns).astype(bool).reshape(rows, columns))
        for name, (rows, columns) in shapes.items()
    }
    variant = Variant(masks, dropped)
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
    """The decoder computes as the variant for a while: masked weights swapped in, dropped sublayers add nothing."""
    sublayers = list(decoder.sublayers)
    with ExitStack() as stack:
        for sublayer in sublayers:
            stack.enter_context(swapped([sublayer], variant.weights(sublayer)))
            if sublayer.label in variant.dropped:
                stack.enter_context(sublayer.dropped())
        yield


def _packed(mask: Mask) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.cpu().numpy().reshape(-1))
