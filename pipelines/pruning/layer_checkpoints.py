"""Checkpoints of an unfinished pruning run, one file per layer, so that a killed run resumes at the next layer."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunescope.pipelines.core.atomic_write import replace_file
from prunescope.pipelines.pruning.variant import stored_changes, tensors_to_store
from prunescope.pipelines.pruning.weight_delta import LazyMapping, WeightDelta


class LayerFiles:
    """One safetensors file per finished layer of a run, in a folder that is created if missing.

    Files of runs with another `fingerprint`, the hash of all that the changes depend on, are ignored and overwritten.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def write(self, layer: int, changes: Mapping[str, WeightDelta], facts: Mapping[str, Any]) -> None:
        """Store a layer's changes and the facts up to it, atomically."""
        metadata = {
            "fingerprint": self._fingerprint,
            "layer": str(layer),
            "changes": json.dumps({name: change.numbers for name, change in changes.items()}),
            "facts": json.dumps(dict(facts)),
        }
        tensors = tensors_to_store(changes)
        replace_file(self._file(layer), lambda temporary: save_file(tensors, temporary, metadata=metadata))

    def read(self, layer: int) -> tuple[Mapping[str, WeightDelta], dict[str, Any]] | None:
        """Return a finished layer's changes, mapped into memory, and the facts, or None without a file of this run."""
        with suppress(OSError, SafetensorError, KeyError, ValueError, TypeError):
            opened: Any = safe_open(self._file(layer), framework="pt")
            metadata = opened.metadata()
            if metadata["fingerprint"] == self._fingerprint and metadata["layer"] == str(layer):
                return stored_changes(opened, json.loads(metadata["changes"])), json.loads(metadata["facts"])
        return None

    def _file(self, layer: int) -> Path:
        return self._folder / f"layer-{layer:04d}.safetensors"


def layered_changes(files: LayerFiles, names: Sequence[Sequence[str]]) -> Mapping[str, WeightDelta]:
    """Return the changes of each layer's named matrices, read on access; only one file is open at a time."""
    layers = {name: layer for layer, group in enumerate(names) for name in group}
    current: tuple[int, Mapping[str, WeightDelta]] | None = None

    def read(name: str) -> WeightDelta:
        nonlocal current
        layer = layers[name]
        if current is None or current[0] != layer:
            stored = files.read(layer)
            if stored is None:
                raise FileNotFoundError(f"the file of layer {layer} is missing while its changes are still needed")
            current = layer, stored[0]
        return current[1][name]

    return LazyMapping(layers, read)


def overlay(later: Mapping[str, WeightDelta], earlier: Mapping[str, WeightDelta]) -> Mapping[str, WeightDelta]:
    """Return the later changes, and the earlier ones of matrices that have no later change; each is read on access."""
    return LazyMapping([*earlier, *later], lambda name: later[name] if name in later else earlier[name])


def discard(folder: Path) -> None:
    """Remove a folder of unfinished work once its results are written."""
    shutil.rmtree(folder, ignore_errors=True)
