"""Changes of a model that is being pruned, one file a layer, so that a killed run goes on at the layer it had reached.

A finished variant's own file is `variant.py`'s; whoever has written that removes these with `discard`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunescope.pipelines.pruning.variant import StoredChanges
from prunescope.pipelines.pruning.weight_delta import WeightDelta


class LayerFiles:
    """One safetensors file for each finished layer of a run, in a folder of its own.

    Args:
        folder: made where it is missing; files of other runs in it are taken for none and overwritten.
        fingerprint: everything that the changes follow from, as one hash.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def write(self, layer: int, changes: Mapping[str, WeightDelta], facts: Mapping[str, Any]) -> None:
        """Keeps a layer's changes, and what the recipe has told up to it; never half of them under the file's name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        about = {
            "fingerprint": self._fingerprint,
            "layer": str(layer),
            "changes": json.dumps({name: change.numbers for name, change in changes.items()}),
            "facts": json.dumps(dict(facts)),
        }
        tensors = {
            f"{key}:{name}": tensor.contiguous()
            for name, change in changes.items()
            for key, tensor in change.tensors.items()
        }
        file = self._file(layer)
        temporary = file.with_suffix(".tmp")
        save_file(tensors, temporary, metadata=about)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, layer: int) -> tuple[StoredChanges, dict[str, Any]] | None:
        """A finished layer's changes, mapped into memory, and the facts; None where this run has no such file."""
        with suppress(OSError, SafetensorError, KeyError, ValueError, TypeError):
            opened: Any = safe_open(self._file(layer), framework="pt")
            about = opened.metadata()
            if about["fingerprint"] == self._fingerprint and about["layer"] == str(layer):
                return StoredChanges(opened, json.loads(about["changes"])), json.loads(about["facts"])
        return None

    def _file(self, layer: int) -> Path:
        return self._folder / f"layer-{layer:04d}.safetensors"


class LayeredChanges(Mapping[str, WeightDelta]):
    """Changes that lie in layer files; only one of them is open at a time.

    Args:
        files: where they lie.
        names: of the changed matrices, by layer.
    """

    def __init__(self, files: LayerFiles, names: Sequence[Sequence[str]]) -> None:
        self._files = files
        self._layers = {name: layer for layer, each in enumerate(names) for name in each}
        self._open: tuple[int, StoredChanges] | None = None

    def __getitem__(self, name: str) -> WeightDelta:
        """The change of a matrix."""
        layer = self._layers[name]
        if self._open is None or self._open[0] != layer:
            found = self._files.read(layer)
            if found is None:
                raise FileNotFoundError(f"the file of layer {layer} is gone while its changes are still needed")
            self._open = layer, found[0]
        return self._open[1][name]

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Number of changed matrices."""
        return len(self._layers)

    def __contains__(self, name: object) -> bool:
        """Whether there is a change of that name; nothing is read."""
        return name in self._layers


class Overlay(Mapping[str, WeightDelta]):
    """Changes over earlier ones, which show where there are no later; nothing is read before it is asked for."""

    def __init__(self, later: Mapping[str, WeightDelta], earlier: Mapping[str, WeightDelta]) -> None:
        self._later, self._earlier = later, earlier

    def __getitem__(self, name: str) -> WeightDelta:
        """The change of a matrix."""
        return self._later[name] if name in self._later else self._earlier[name]

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter({**dict.fromkeys(self._earlier), **dict.fromkeys(self._later)})

    def __len__(self) -> int:
        """Number of changed matrices."""
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Whether there is a change of that name; nothing is read."""
        return name in self._later or name in self._earlier


def discard(folder: Path) -> None:
    """Removes a folder of layer files, when the variant's own file is written."""
    shutil.rmtree(folder, ignore_errors=True)
