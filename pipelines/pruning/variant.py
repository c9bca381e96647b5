"""A variant: recipe and mask, one bit a weight, and how a decoder wears it for a while.

The weights themselves are never copied to disk; mask and dense model rebuild them bit for bit.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from pipelines.models.calls import hooks
from pipelines.models.decoder import Decoder, Layer
from pipelines.models.sublayer import Sublayer
from pipelines.pruning.masks import Mask
from pipelines.pruning.recipes import Recipe

Packed = np.ndarray[Any, np.dtype[np.uint8]]
# Rows of a matrix product under noise `batch`, over those of the dense run.
COPIES = 3


# Up to so many bytes of masked weights lie in memory beside the dense ones; larger variants have them made for one
# layer at a time, each time that it runs.
MOST_HELD = 4 * 2**30


class PackedMasks(Mapping[str, Mask]):
    """Masks by matrix name, one bit a weight in memory; each is unpacked when it is asked for.

    Args:
        packed: bits and shape (outputs, inputs) of every mask.
    """

    def __init__(self, packed: Mapping[str, tuple[Packed, tuple[int, int]]]) -> None:
        self._packed = dict(packed)

    @classmethod
    def of(cls, masks: Iterable[tuple[str, Mask]]) -> "PackedMasks":
        """Packs masks as they come."""
        return cls(
            {
                name: (np.packbits(mask.cpu().numpy().reshape(-1)), (mask.shape[0], mask.shape[1]))
                for name, mask in masks
            }
        )

    def __getitem__(self, name: str) -> Mask:
        """The mask, unpacked."""
        bits, shape = self._packed[name]
        return torch.from_numpy(np.unpackbits(bits, count=shape[0] * shape[1]).astype(bool).reshape(shape))

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._packed)

    def __len__(self) -> int:
        """Number of masks."""
        return len(self._packed)

    def __contains__(self, name: object) -> bool:
        """Whether there is a mask of that name; nothing is unpacked."""
        return name in self._packed

    @property
    def bits(self) -> dict[str, Packed]:
        """The masks as they lie in memory and in a file."""
        return {name: bits for name, (bits, _) in self._packed.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of every mask."""
        return {name: shape for name, (_, shape) in self._packed.items()}


@dataclass(frozen=True)
class Variant:
    """What a recipe did to a model.

    Attributes:
        masks: True where a weight is kept, (outputs, inputs), by the matrix's name.
        dropped: labels of removed sublayers, such as `attn.3`.
        noise: how the unpruned model is computed differently (a kind of `recipes.Noise`); None for a pruned one.
    """

    masks: PackedMasks = field(default_factory=lambda: PackedMasks({}))
    dropped: tuple[str, ...] = ()
    noise: str | None = None

    def changes(self, sublayer: Sublayer) -> bool:
        """Whether this sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(name in self.masks for name in sublayer.matrices)

    @property
    def hash(self) -> str:
        """SHA-256 over the packed masks, the dropped sublayers and the kind of noise."""
        digest = hashlib.sha256(json.dumps(sorted(self.dropped)).encode() + (self.noise or "").encode())
        bits, shapes = self.masks.bits, self.masks.shapes
        for name in sorted(bits):
            digest.update(f"{name}{shapes[name]}".encode())
            digest.update(bits[name].tobytes())
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
        about = {
            "shapes": json.dumps(self.masks.shapes),
            "dropped": json.dumps(list(self.dropped)),
            "noise": self.noise or "",
            "recipe": recipe.parameters_json,
            "weight_hash": weight_hash,
            "mask_hash": self.hash,
        }
        save_file(self.masks.bits, file, metadata=about)


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
    if any(packed[name].size != -(-rows * columns // 8) for name, (rows, columns) in shapes.items()):
        raise InputError(f"{file}: its masks are cut short; run the recipe again")
    masks = PackedMasks({name: (packed[name], shape) for name, shape in shapes.items()})
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
    masked = [
        m.stored.nbytes for each in decoder.sublayers for name, m in each.matrices.items() if name in variant.masks
    ]
    with ExitStack() as stack:
        if sum(masked) <= MOST_HELD:
            for sublayer in decoder.sublayers:
                stack.enter_context(swapped([sublayer], variant.weights(sublayer)))
        else:
            stack.enter_context(_layer_by_layer(decoder, variant))
        for sublayer in decoder.sublayers:
            if sublayer.label in variant.dropped:
                stack.enter_context(sublayer.dropped())
        stack.enter_context(_noisy(decoder, variant.noise))
        yield


@contextmanager
def _layer_by_layer(decoder: Decoder, variant: Variant) -> Iterator[None]:
    """Masked weights are made when a layer begins and gone when it ends, so that only one layer's are in memory."""
    worn = ExitStack()

    def begin(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: object) -> None:  # noqa: ARG001
            for sublayer in (layer.attn, layer.mlp):
                worn.enter_context(swapped([sublayer], variant.weights(sublayer)))

        return hook

    def end(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
        worn.close()

    handles = [
        handle
        for layer in decoder.layers
        for handle in (
            layer.module.register_forward_pre_hook(begin(layer)),
            layer.module.register_forward_hook(end, always_call=True),
        )
    ]
    with worn, hooks(*handles):
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
    """Every product of a linear module in the layers runs with copies of its rows, of which the first come back.

    Attention's own products and stacked experts keep their shape.

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
    # Hooks, not another forward: whatever kernel the dense run multiplies with is the one that sees the copies.
    handles = [
        handle
        for linear in linears
        for handle in (
            linear.register_forward_pre_hook(_with_copies),
            linear.register_forward_hook(_without_copies, prepend=True),
        )
    ]
    with hooks(*handles):
        yield


def _with_copies(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:  # noqa: ARG001 (a torch hook)
    (rows,) = args
    return (rows.repeat(COPIES, *[1] * (rows.dim() - 1)),)


def _without_copies(module: nn.Module, args: object, output: Tensor) -> Tensor:  # noqa: ARG001 (a torch hook)
    return output[: len(output) // COPIES]
