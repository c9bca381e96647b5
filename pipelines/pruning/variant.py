"""A variant: what a recipe did to a model, as changes of its matrices and a list of what is dropped, and its file.

The dense weights are never copied: variant and dense model rebuild the pruned ones bit for bit. How a decoder wears
one is `wearing.py`'s.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.pruning.masks import Mask
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from prunescope.pipelines.recipes import Recipe


class Masks(Mapping[str, Mask]):
    """The masks among some changes, by matrix name; each is unpacked when it is asked for."""

    def __init__(self, changes: Mapping[str, WeightDelta]) -> None:
        self._changes = changes
        self._names = [name for name in changes if changes[name].bits is not None]

    def __getitem__(self, name: str) -> Mask:
        """The mask, unpacked."""
        mask = self._changes[name].mask
        if mask is None:
            raise KeyError(name)
        return mask

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of masks."""
        return len(self._names)


@dataclass(frozen=True)
class Variant:
    """What a recipe did to a model.

    Attributes:
        changes: what became of each changed matrix, by its name; those read from a file stay there until asked for.
        parameters: parameters that are no such matrices and have other values, by their name in the model: biases,
            those too that the dense module does not have (`….down_proj.bias`), gains of norms.
        dropped: labels of removed sublayers, such as `attn.3`.
        noise: how the unpruned model is computed differently (a kind of `recipes.Noise`); None for a pruned one.
        facts: what the recipe tells about its work, by name: numbers and lists, for the table `variants`.
    """

    changes: Mapping[str, WeightDelta] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    noise: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def masks(self) -> Masks:
        """The masks among its changes."""
        return Masks(self.changes)

    @property
    def is_dense(self) -> bool:
        """Whether nothing was done; counts names and reads no change."""
        return not (self.changes or self.parameters or self.dropped or self.noise)

    def changed(self, sublayer: Sublayer) -> bool:
        """Whether this sublayer differs from the dense model's."""
        return sublayer.label in self.dropped or any(True for _ in self._keys(sublayer))

    def weights(self, sublayer: Sublayer) -> dict[str, Tensor]:
        """What one sublayer has of its own: matrices by their name, each in its own layout; parameters by theirs."""
        found = {}
        for name in self._keys(sublayer):
            if name in sublayer.matrices:
                matrix = sublayer.matrices[name]
                weight = self.changes[name].weight(matrix.weight)
                found[name] = weight.T.contiguous() if matrix.is_transposed else weight
            else:
                found[name] = self.parameters[name]
        return found

    def _keys(self, sublayer: Sublayer) -> Iterator[str]:
        yield from (name for name in sublayer.matrices if name in self.changes)
        yield from (name for name in self.parameters if name.rpartition(".")[0] in sublayer.modules)

    @property
    def hash(self) -> str:
        """SHA-256 over everything but the facts."""
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
        return digest.hexdigest()

    def save(self, file: Path, recipe: Recipe, weight_hash: str) -> None:
        """Writes all of it and the recipe as safetensors; the caller makes it atomic."""
        about = {
            "changes": json.dumps({name: change.numbers for name, change in self.changes.items()}),
            "dropped": json.dumps(list(self.dropped)),
            "noise": self.noise or "",
            "facts": json.dumps(dict(self.facts)),
            "recipe": recipe.parameters_json,
            "weight_hash": weight_hash,
            "variant_hash": self.hash,
        }
        about["about_hash"] = _about_hash(about)
        tensors = {f"parameter:{name}": tensor.contiguous() for name, tensor in self.parameters.items()}
        for name, change in self.changes.items():
            tensors |= {f"{key}:{name}": tensor.contiguous() for key, tensor in change.tensors.items()}
        save_file(tensors, file, metadata=about)


class StoredChanges(Mapping[str, WeightDelta]):
    """Changes that lie in a variant file, mapped into memory: each is read when it is asked for."""

    def __init__(self, opened: Any, numbers: Mapping[str, Any]) -> None:  # noqa: ANN401 (safetensors has no types)
        self._opened, self._numbers = opened, numbers
        self._keys: dict[str, list[str]] = {}
        for key in opened.keys():  # noqa: SIM118 (not a mapping)
            short, _, name = key.partition(":")
            self._keys.setdefault(name, []).append(short)

    def __getitem__(self, name: str) -> WeightDelta:
        """The change of a matrix."""
        numbers = self._numbers[name]
        parts = {short: self._opened.get_tensor(f"{short}:{name}") for short in self._keys[name]}
        return WeightDelta.restored(parts, numbers)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """Number of changed matrices."""
        return len(self._numbers)

    def __contains__(self, name: object) -> bool:
        """Whether there is a change of that name; nothing is read."""
        return name in self._numbers


class DamagedVariantError(InputError):
    """A variant file is cut short or altered: only pruning again helps."""


def load_variant(file: Path, weight_hash: str) -> Variant:
    """Reads a variant file back.

    Raises:
        DamagedVariantError: the file is cut short or altered.
        InputError: it is missing, cannot be read, or belongs to other weights.
    """
    variant, of = _read(file)
    if of != weight_hash:
        raise InputError(f"{file}: belongs to other weights of the model; run the recipe again")
    return variant


def verify_variant(file: Path) -> None:
    """Compares a variant file of any weights with the hashes in it.

    Raises:
        DamagedVariantError: the file is cut short or altered.
        InputError: it is missing or cannot be read.
    """
    _read(file)


def _read(file: Path) -> tuple[Variant, str]:
    """The variant and the hash of the weights that it belongs to."""
    try:
        opened: Any = safe_open(file, framework="pt")
        about = opened.metadata()
        changes = StoredChanges(opened, json.loads(about["changes"]))
        keys = [key.partition(":")[2] for key in opened.keys() if key.startswith("parameter:")]  # noqa: SIM118
        variant = Variant(
            changes,
            {name: opened.get_tensor(f"parameter:{name}") for name in keys},
            tuple(json.loads(about["dropped"])),
            about["noise"] or None,
            json.loads(about["facts"]),
        )
        found, weight_hash = variant.hash, about["weight_hash"]
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or 'no readable variant file'}; run the recipe again") from error
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DamagedVariantError(f"{file}: no readable variant file; run the recipe again") from error
    if found != about["variant_hash"]:
        raise DamagedVariantError(f"{file}: its changes are not the ones it was written with; run the recipe again")
    # Files of the first version have no hash of what is said about them.
    if "about_hash" in about and about["about_hash"] != _about_hash(about):
        raise DamagedVariantError(f"{file}: what it says of itself is not what was written; run the recipe again")
    return variant, weight_hash


def masked(masks: Iterable[tuple[str, Mask]]) -> dict[str, WeightDelta]:
    """Changes that only set weights to zero, packed as they come."""
    return {name: WeightDelta.masked(mask) for name, mask in masks}


def _about_hash(about: Mapping[str, str]) -> str:
    kept = {key: text for key, text in about.items() if key != "about_hash"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _bytes(tensor: Tensor) -> Any:  # noqa: ANN401 (numpy's buffer has no type)
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
