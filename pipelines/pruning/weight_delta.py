"""The change of one weight matrix by a recipe: stored compactly, restored bit for bit."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.pruning.masks import Mask

# The integer dtype of each element size in bytes.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The tensors among the fields of `QuantizedWeights`.
_CODE_TENSORS = ("packed", "scales", "zeros", "channels")
# Checkpoints store weights in 16 bits, even if a study computes in 32.
WEIGHT_BYTES = 2

Weight = Float[Tensor, "out in"]
_Value = TypeVar("_Value")


class LazyMapping(Mapping[str, _Value]):
    """A mapping that calls `read` with a name whenever its value is accessed; names, in order, need no access."""

    def __init__(self, names: Iterable[str], read: Callable[[str], _Value]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> _Value:
        """Return the value of a key."""
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        """Return whether the key exists, without reading its value."""
        return name in self._names


@dataclass(frozen=True)
class QuantizedWeights:
    """Quantized weights (code − zero)·scale, divided by `channels` if present; each step rounds to float32 once.

    Attributes:
        packed: all codes (0 to 2^bits − 1) in row order, `bits` bits each, highest bit first; uint8.
        bits: bits per weight.
        group: number of consecutive inputs that share a scale and a zero; the last group of a row may be shorter.
        scales: (outputs, groups), float32.
        zeros: (outputs, groups), whole numbers in float32.
        channels: (inputs,), float32: AWQ's factors of each input channel's weights; or None.
    """

    packed: Tensor
    bits: int
    group: int
    scales: Tensor
    zeros: Tensor
    channels: Tensor | None = None

    @classmethod
    def of(
        cls, codes: Tensor, bits: int, group: int, scales: Tensor, zeros: Tensor, channels: Tensor | None = None
    ) -> "QuantizedWeights":
        """Pack codes of shape (outputs, inputs)."""
        unpacked = np.unpackbits(codes.cpu().to(torch.uint8).numpy().reshape(-1, 1), axis=1)
        packed = np.packbits(unpacked[:, 8 - bits :])
        channels = None if channels is None else channels.detach().float().cpu()
        return cls(torch.from_numpy(packed), bits, group, scales.float().cpu(), zeros.float().cpu(), channels)

    def weight(self, outputs: int, inputs: int) -> Weight:
        """Return the dequantized weights, (outputs, inputs) in float32 on the CPU."""
        unpacked = np.unpackbits(self.packed.numpy(), count=outputs * inputs * self.bits).reshape(-1, self.bits)
        padded = np.zeros((len(unpacked), 8), dtype=np.uint8)
        padded[:, 8 - self.bits :] = unpacked
        codes = torch.from_numpy(np.packbits(padded, axis=1).reshape(outputs, inputs)).float()
        groups = torch.arange(inputs) // self.group
        weight = (codes - self.zeros[:, groups]) * self.scales[:, groups]
        return weight if self.channels is None else weight / self.channels


@dataclass(frozen=True)
class WeightDelta:
    """The change of one matrix: a mask and, for the kept weights, new values, codes or neither.

    Attributes:
        shape: outputs and inputs.
        bits: True if a weight is kept, packed by row, highest bit first, uint8; None if all are kept.
        values: the kept weights in row order, in the model's dtype; None if they are the dense ones.
        codes: quantized weights; never together with `values`.
    """

    shape: tuple[int, int]
    bits: Tensor | None = None
    values: Tensor | None = None
    codes: QuantizedWeights | None = None

    @classmethod
    def masked(cls, mask: Mask) -> "WeightDelta":
        """Return a change that sets the weights outside the mask to zero and keeps the others."""
        return cls(_shape(mask), torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1))))

    @classmethod
    def valued(cls, weight: Weight, mask: Mask | None = None) -> "WeightDelta":
        """Return a change to new values in the model's dtype; those outside the mask (None: none) are ignored."""
        values = weight.detach().cpu()
        if mask is None:
            return cls(_shape(weight), values=values.reshape(-1).contiguous())
        return cls(_shape(weight), cls.masked(mask).bits, values[mask.cpu()])

    @classmethod
    def quantized(cls, shape: tuple[int, int], codes: QuantizedWeights, mask: Mask | None = None) -> "WeightDelta":
        """Return a change to quantized weights, with zeros outside the mask."""
        return cls(shape, None if mask is None else cls.masked(mask).bits, codes=codes)

    @property
    def mask(self) -> Mask | None:
        """The mask (outputs, inputs) on the CPU, True if a weight is kept; None if all are kept."""
        if self.bits is None:
            return None
        count = self.shape[0] * self.shape[1]
        return torch.from_numpy(np.unpackbits(self.bits.numpy(), count=count).astype(bool).reshape(self.shape))

    def weight(self, dense: Weight) -> Weight:
        """Return the changed weight as a new tensor, in the dense weight's dtype and on its device."""
        mask = self._mask_on(dense.device)
        if self.codes is not None:
            weight = self.codes.weight(*self.shape).to(dense)
            return weight if mask is None else _apply_mask(weight, mask)
        if mask is None:
            return (dense.clone() if self.values is None else self.values.reshape(self.shape).to(dense)).contiguous()
        if self.values is None:
            return _apply_mask(dense, mask)
        weight = torch.zeros_like(dense, memory_format=torch.contiguous_format)
        return weight.masked_scatter_(mask, self.values.to(dense))

    def _mask_on(self, device: torch.device) -> Mask | None:
        """Return `mask` on a device; an accelerator receives the packed bits, an eighth of the bytes."""
        if self.bits is None or device.type == "cpu":
            return self.mask
        places = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
        bits = (self.bits.to(device)[:, None] >> places) & 1
        return bits.flatten()[: self.shape[0] * self.shape[1]].reshape(self.shape).bool()

    def then(self, later: "WeightDelta", dense: Weight) -> "WeightDelta":
        """Merge with a later change, whose mask keeps values and codes; values equal to dense ones are not stored."""
        if later.values is not None:
            remaining = dense.reshape(-1) if (mask := later.mask) is None else dense[mask.to(dense.device)]
            return replace(later, values=None) if torch.equal(later.values, remaining.cpu()) else later
        if later.codes is not None or (self.values is None and self.codes is None):
            return later
        if self.codes is not None:
            return replace(self, bits=later.bits)
        mask = later.mask
        return self if mask is None else WeightDelta.valued(self.weight(dense), mask)

    def scaled(self, factors: Float[Tensor, " out"], dense: Weight) -> "WeightDelta":
        """Return the change with each output's weights times a factor; zeros stay zero, and codes stay codes."""
        column = factors[:, None]
        if self.codes is not None:
            scales = (self.codes.scales * column.to(self.codes.scales.device)).float()
            return replace(self, codes=replace(self.codes, scales=scales))
        return WeightDelta.valued((self.weight(dense) * column.to(dense.device)).to(dense.dtype), self.mask)

    @property
    def kept(self) -> int:
        """Number of weights that the mask keeps."""
        # The padding bits after the last weight are 0.
        return self.shape[0] * self.shape[1] if self.bits is None else int(np.bitwise_count(self.bits.numpy()).sum())

    @property
    def saved_bytes(self) -> int:
        """Bytes saved in a 16-bit checkpoint with packed masks and codes; negative if codes take more."""
        size = self.shape[0] * self.shape[1]
        kept = self.kept
        packed = 0 if self.bits is None else self.bits.numel()
        if self.codes is None:
            # With few zeros the mask takes more than they save, so the file keeps the whole matrix.
            return max(0, (size - kept) * WEIGHT_BYTES - packed)
        scales = self.codes.scales.numel() * 2 * WEIGHT_BYTES
        return size * WEIGHT_BYTES - packed - math.ceil(kept * self.codes.bits / 8) - scales

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by short name."""
        tensors = {"bits": self.bits, "values": self.values}
        if self.codes is not None:
            tensors |= {key: getattr(self.codes, key) for key in _CODE_TENSORS}
        return {key: tensor for key, tensor in tensors.items() if tensor is not None}

    @property
    def numbers(self) -> dict[str, Any]:
        """The metadata that is stored next to `tensors`."""
        codes = {} if self.codes is None else {"bits": self.codes.bits, "group": self.codes.group}
        return {"shape": list(self.shape), **codes}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "WeightDelta":
        """Rebuild a change from `tensors` and `numbers`; ValueError, KeyError or TypeError if they do not fit."""
        outputs, inputs = (int(size) for size in numbers["shape"])
        codes = None
        if "packed" in tensors:
            parts = {key: tensors[key] for key in _CODE_TENSORS if key in tensors}
            codes = QuantizedWeights(bits=int(numbers["bits"]), group=int(numbers["group"]), **parts)
        bits = tensors.get("bits")
        if bits is not None and bits.numel() != -(-outputs * inputs // 8):
            raise ValueError("a mask is cut short")
        values = tensors.get("values")
        change = cls((outputs, inputs), bits, values, codes)
        if values is not None and values.numel() != change.kept:
            raise ValueError("a mask and its values have different numbers of weights")
        return change


def _shape(matrix: Tensor) -> tuple[int, int]:
    return matrix.shape[0], matrix.shape[1]


def _apply_mask(weight: Weight, mask: Mask) -> Weight:
    """Return a copy with the same bits where the mask is True and 0 elsewhere, even for NaN and infinity.

    Bitwise, because branches on a random mask are mispredicted half of the time.
    """
    integer = _INTEGERS[weight.element_size()]
    return (weight.view(integer) & mask.to(weight.device, integer).neg_()).view(weight.dtype)
