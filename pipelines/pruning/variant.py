"""Variants: the changes that a recipe makes to a model, and the files that store them.

The dense weights are never copied. A variant and the dense model together give the pruned weights bit for bit.
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.masks import Mask
from prunescope.pipelines.pruning.substitute import Substitute
from prunescope.pipelines.pruning.weight_delta import LazyMapping, WeightDelta
from prunescope.pipelines.recipes import Recipe


@dataclass(frozen=True)
class Variant:
    """The changes that a recipe makes to a model.

    Attributes:
        changes: the changed matrices by name; changes stored in a file are read on access.
        parameters: other changed parameters by their name in the model, such as gains of norms and biases, including
            biases that the dense module lacks (`….down_proj.bias`).
        dropped: labels of removed sublayers, such as `attn.3`.
        noise: how the unpruned model is computed differently (a kind of `NoiseRecipe`); None for a pruned model.
        facts: numbers and lists that the recipe reports, by name, for the table `variants`.
        substitutes: what a repair adds in place of removed sublayers, by label.
    """

    changes: Mapping[str, WeightDelta] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    noise: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    substitutes: Mapping[str, Substitute] = field(default_factory=dict)

    @property
    def masks(self) -> Mapping[str, Mask]:
        """The masks by matrix name, each unpacked on access."""
        names = [name for name, change in self.changes.items() if change.bits is not None]
        return LazyMapping(names, lambda name: cast(Mask, self.changes[name].mask))

    @property
    def is_dense(self) -> bool:
        """Return whether nothing is changed, without reading any change."""
        return not (self.changes or self.parameters or self.dropped or self.noise)

    def changed(self, sublayer: Sublayer) -> bool:
        """Return whether the sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(True for _ in self._keys(sublayer))

    def moves(self, sublayer: Sublayer) -> bool:
        """Return whether the sublayer computes anything different from the dense model's, by a change or by noise."""
        return self.noise is not None or self.changed(sublayer)

    def without(self, sublayers: Sequence[Sublayer]) -> "Variant":
        """Return the variant with some more sublayers dropped, and without changes inside them."""
        gone = {name for sublayer in sublayers for name in (*sublayer.matrices, *sublayer.modules)}
        return replace(
            self,
            changes={name: change for name, change in self.changes.items() if name not in gone},
            parameters={name: own for name, own in self.parameters.items() if name.rpartition(".")[0] not in gone},
            dropped=(*self.dropped, *(sublayer.label for sublayer in sublayers if sublayer.label not in self.dropped)),
        )

    def weights(self, sublayer: Sublayer) -> dict[str, Tensor]:
        """Return the sublayer's changed matrices, in their stored layout, and other changed parameters, by name."""
        weights = {}
        for name in self._keys(sublayer):
            if name in sublayer.matrices:
                matrix = sublayer.matrices[name]
                weight = self.changes[name].weight(matrix.weight)
                weights[name] = weight.T.contiguous() if matrix.is_transposed else weight
            else:
                weights[name] = self.parameters[name]
        return weights

    def _keys(self, sublayer: Sublayer) -> Iterator[str]:
        yield from (name for name in sublayer.matrices if name in self.changes)
        yield from (name for name in self.parameters if name.rpartition(".")[0] in sublayer.modules)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything except the facts."""
        digest = hashlib.sha256(json.dumps(sorted(self.dropped)).encode() + (self.noise or "").encode())
        for name in sorted(self.changes):
            change = self.changes[name]
            digest.update(f"{name}{json.dumps(change.numbers)}".encode())
            for key, tensor in sorted(change.tensors.items()):
                digest.update(key.encode())
                digest.update(_bytes(tensor))
        for name in sorted(self.parameters):
            digest.update(name.encode())
            digest.update(_bytes(self.parameters[name]))
        for name, tensor in sorted(_substitute_tensors(self.substitutes).items()):
            digest.update(name.encode())
            digest.update(_bytes(tensor))
        return digest.hexdigest()

    def save(self, file: Path, recipe: Recipe, weight_hash: str) -> None:
        """Write the variant and its recipe as safetensors; the caller makes the write atomic."""
        metadata = {
            "changes": json.dumps({name: change.numbers for name, change in self.changes.items()}),
            "dropped": json.dumps(list(self.dropped)),
            "noise": self.noise or "",
            "facts": json.dumps(dict(self.facts)),
            "recipe": recipe.parameters_json,
            "weight_hash": weight_hash,
            "variant_hash": self.hash,
        }
        metadata["about_hash"] = _metadata_hash(metadata)
        tensors = {f"parameter:{name}": tensor.contiguous() for name, tensor in self.parameters.items()}
        tensors |= _substitute_tensors(self.substitutes)
        save_tensors(tensors | tensors_to_store(self.changes), file, metadata)


def _substitute_tensors(substitutes: Mapping[str, Substitute]) -> dict[str, Tensor]:
    return {
        f"substitute:{label}:{key}": tensor.contiguous()
        for label, substitute in substitutes.items()
        for key, tensor in substitute.tensors.items()
    }


def _stored_substitutes(opened: Any) -> dict[str, Substitute]:  # noqa: ANN401 (safetensors has no types)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in opened.keys():  # noqa: SIM118 (not a mapping)
        if name.startswith("substitute:"):
            _, label, key = name.split(":")
            tensors.setdefault(label, {})[key] = _aligned(opened, name)
    return {label: Substitute(**own) for label, own in tensors.items()}


def _aligned(opened: Any, key: str) -> Tensor:  # noqa: ANN401 (safetensors has no types)
    """Return a tensor of an open file at a multiple of 64 bytes, where PyTorch allocates tensors.

    A tensor of a file starts anywhere, and products of other alignments are summed in another order. A variant that is
    read must give the bits of the variant that was saved.
    """
    tensor: Tensor = opened.get_tensor(key)
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file with the usual permissions, because safetensors lets only the owner read its files."""
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    save_file(tensors, file, metadata=metadata)
    file.chmod(mode)


def tensors_to_store(changes: Mapping[str, WeightDelta]) -> dict[str, Tensor]:
    """Return the tensors of changes under the keys that `stored_changes` reads."""
    return {
        f"{key}:{name}": tensor.contiguous()
        for name, change in changes.items()
        for key, tensor in change.tensors.items()
    }


def stored_changes(opened: Any, numbers: Mapping[str, Any]) -> Mapping[str, WeightDelta]:  # noqa: ANN401 (safetensors has no types)
    """Return the changes in an open safetensors file by matrix name, read on access; see `WeightDelta.numbers`."""
    keys: dict[str, list[str]] = {}
    for key in opened.keys():  # noqa: SIM118 (not a mapping)
        short, _, name = key.partition(":")
        keys.setdefault(name, []).append(short)

    def read(name: str) -> WeightDelta:
        tensors = {short: _aligned(opened, f"{short}:{name}") for short in keys[name]}
        return WeightDelta.restored(tensors, numbers[name])

    return LazyMapping(numbers, read)


class DamagedVariantError(InputError):
    """A variant file is truncated or altered; only pruning again helps."""


def load_variant(file: Path, weight_hash: str) -> Variant:
    """Read a variant file.

    Raises:
        DamagedVariantError: the file is truncated or altered.
        InputError: the file is missing, unreadable, or belongs to other weights.
    """
    variant, stored_hash = _read(file)
    if stored_hash != weight_hash:
        raise InputError(f"{file}: belongs to other weights of the model; run its study again")
    return variant


def verify_variant(file: Path) -> None:
    """Check a variant file of any weights against the hashes stored in it.

    Raises:
        DamagedVariantError: the file is truncated or altered.
        InputError: the file is missing or unreadable.
    """
    _read(file)


def _read(file: Path) -> tuple[Variant, str]:
    """Return the variant and the hash of the dense weights that it belongs to."""
    try:
        opened: Any = safe_open(file, framework="pt")
        metadata = opened.metadata()
        changes = stored_changes(opened, json.loads(metadata["changes"]))
        keys = [key.partition(":")[2] for key in opened.keys() if key.startswith("parameter:")]  # noqa: SIM118
        variant = Variant(
            changes,
            {name: _aligned(opened, f"parameter:{name}") for name in keys},
            tuple(json.loads(metadata["dropped"])),
            metadata["noise"] or None,
            json.loads(metadata["facts"]),
            _stored_substitutes(opened),
        )
        variant_hash, weight_hash = variant.hash, metadata["weight_hash"]
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or 'not a readable variant file'}; run its study again") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedVariantError(f"{file}: not a readable variant file; run its study again") from error
    if variant_hash != metadata["variant_hash"]:
        raise DamagedVariantError(f"{file}: its changes do not match their hash; run its study again")
    # Files of the first version have no hash of their metadata.
    if "about_hash" in metadata and metadata["about_hash"] != _metadata_hash(metadata):
        raise DamagedVariantError(f"{file}: its metadata does not match its hash; run its study again")
    return variant, weight_hash


def _metadata_hash(metadata: Mapping[str, str]) -> str:
    hashed = {key: text for key, text in metadata.items() if key != "about_hash"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _bytes(tensor: Tensor) -> Any:  # noqa: ANN401 (numpy's buffer has no type)
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
