"""What a recipe did to one matrix, kept as small as it can be and rebuilt bit for bit.

How it was decided is `prunescope.pipelines.pruning.methods`'s; files of changes are `variant.py`'s.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.pruning.masks import Mask

# Integers as wide as the numbers of a type of so many bytes.
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Weight = Float[Tensor, "out in"]


@dataclass(frozen=True)
class QuantizedWeights:
    """Quantized weights: (code − zero)·scale, divided by `channels` where there are any; one float32 rounding each.

    Attributes:
        packed: integers 0 to 2^bits − 1 of all weights in row order, `bits` bits each, highest bit first; uint8.
        bits: of one weight.
        group: consecutive inputs that share scale and zero; the last group of a row may be shorter.
        scales: (outputs, groups), float32.
        zeros: (outputs, groups), float32 whole numbers.
        channels: (inputs,), float32: what each input channel's weights were multiplied with before (AWQ); or None.
    """

    packed: Tensor
    bits: int
    group: int
    scales: Tensor
    zeros: Tensor
    channels: Tensor | None = None

    @classmethod
    def of(
        cls,
        codes: Tensor,
        bits: int,
        group: int,
        scales: Tensor,
        zeros: Tensor,
        channels: Tensor | None = None,
    ) -> "QuantizedWeights":
        """Packs integers of shape (outputs, inputs)."""
        each = codes.cpu().to(torch.uint8).numpy().reshape(-1, 1)
        packed = np.packbits(np.unpackbits(each, axis=1)[:, 8 - bits :])
        own = None if channels is None else channels.detach().float().cpu()
        return cls(torch.from_numpy(packed), bits, group, scales.float().cpu(), zeros.float().cpu(), own)

    def weight(self, outputs: int, inputs: int) -> Weight:
        """The weights that they stand for, (outputs, inputs) in float32 on the CPU."""
        unpacked = np.unpackbits(self.packed.numpy(), count=outputs * inputs * self.bits).reshape(-1, self.bits)
        padded = np.zeros((len(unpacked), 8), dtype=np.uint8)
        padded[:, 8 - self.bits :] = unpacked
        codes = torch.from_numpy(np.packbits(padded, axis=1).reshape(outputs, inputs)).float()
        spread = torch.arange(inputs) // self.group
        weight = (codes - self.zeros[:, spread]) * self.scales[:, spread]
        return weight if self.channels is None else weight / self.channels


@dataclass(frozen=True)
class WeightDelta:
    """What became of one matrix: some weights zero, those that stay as they were, or with other values, or as codes.

    Attributes:
        shape: outputs and inputs.
        bits: True where a weight is kept, packed by row, highest bit first, uint8; None where all are.
        values: the kept weights in row order, in the model's own type; None where they are the dense ones.
        codes: the weights as integers and scales; never beside `values`.
    """

    shape: tuple[int, int]
    bits: Tensor | None = None
    values: Tensor | None = None
    codes: QuantizedWeights | None = None

    @classmethod
    def masked(cls, mask: Mask) -> "WeightDelta":
        """Weights outside the mask become zero, the others stay."""
        return cls(_shape(mask), torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1))))

    @classmethod
    def valued(cls, weight: Weight, mask: Mask | None = None) -> "WeightDelta":
        """Other values.

        Args:
            weight: in the model's own type; what lies outside the mask is not read.
            mask: True where a weight is kept; None where all are.
        """
        own = weight.detach().cpu()
        if mask is None:
            return cls(_shape(weight), values=own.reshape(-1).contiguous())
        return cls(_shape(weight), cls.masked(mask).bits, own[mask.cpu()])

    @classmethod
    def quantized(cls, shape: tuple[int, int], codes: QuantizedWeights, mask: Mask | None = None) -> "WeightDelta":
        """Codes in place of weights; what lies outside the mask is zero."""
        return cls(shape, None if mask is None else cls.masked(mask).bits, codes=codes)

    @property
    def mask(self) -> Mask | None:
        """True where a weight is kept, (outputs, inputs) on the CPU; None where all are."""
        if self.bits is None:
            return None
        count = self.shape[0] * self.shape[1]
        return torch.from_numpy(np.unpackbits(self.bits.numpy(), count=count).astype(bool).reshape(self.shape))

    def weight(self, dense: Weight) -> Weight:
        """The changed weight, a tensor of its own in the dense one's type, on its device."""
        mask = self.mask
        if self.codes is not None:
            weight = self.codes.weight(*self.shape).to(dense)
            return weight if mask is None else _kept(weight, mask)
        if mask is None:
            return (dense.clone() if self.values is None else self.values.reshape(self.shape).to(dense)).contiguous()
        if self.values is None:
            return _kept(dense, mask)
        weight = torch.zeros_like(dense, memory_format=torch.contiguous_format)
        weight[mask.to(dense.device)] = self.values.to(dense)
        return weight

    def then(self, later: "WeightDelta", dense: Weight) -> "WeightDelta":
        """This change and a later one in one: a later mask leaves values and codes as they are.

        Later values that are all the dense ones need not be kept.
        """
        if later.values is not None:
            kept = dense.reshape(-1) if (mask := later.mask) is None else dense[mask.to(dense.device)]
            return replace(later, values=None) if torch.equal(later.values, kept.cpu()) else later
        if later.codes is not None or (self.values is None and self.codes is None):
            return later
        if self.codes is not None:
            return replace(self, bits=later.bits)
        mask = later.mask
        return self if mask is None else WeightDelta.valued(self.weight(dense), mask)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by short names, for a file."""
        found = {"bits": self.bits, "values": self.values}
        if self.codes is not None:
            found |= {key: getattr(self.codes, key) for key in ("packed", "scales", "zeros", "channels")}
        return {key: tensor for key, tensor in found.items() if tensor is not None}

    @property
    def numbers(self) -> dict[str, Any]:
        """What `tensors` leaves out."""
        codes = {} if self.codes is None else {"bits": self.codes.bits, "group": self.codes.group}
        return {"shape": list(self.shape), **codes}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> "WeightDelta":
        """From `tensors` and `numbers`.

        Raises:
            ValueError, KeyError, TypeError: they do not belong together.
        """
        outputs, inputs = (int(size) for size in numbers["shape"])
        known = {field.name for field in fields(QuantizedWeights)} - {"bits"}
        codes = None
        if "packed" in tensors:
            parts = {key: tensor for key, tensor in tensors.items() if key in known}
            codes = QuantizedWeights(bits=int(numbers["bits"]), group=int(numbers["group"]), **parts)
        bits = tensors.get("bits")
        if bits is not None and bits.numel() != -(-outputs * inputs // 8):
            raise ValueError("a mask is cut short")
        return cls((outputs, inputs), bits, tensors.get("values"), codes)


def _shape(matrix: Tensor) -> tuple[int, int]:
    return matrix.shape[0], matrix.shape[1]


def _kept(weight: Weight, mask: Mask) -> Weight:
    """Return a copy of the weights: the same bits where the mask is set, 0 elsewhere, even of NaN and infinity.

    On bits, because a choice by a random mask takes the wrong branch at every other weight.
    """
    bits = _BITS[weight.element_size()]
    return (weight.view(bits) & mask.to(weight.device, bits).neg_()).view(weight.dtype)
