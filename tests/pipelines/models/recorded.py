"""What a model reads in its passes, recorded by hooks: inputs of linear modules, and shapes of the token ids."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks


def inputs_of(decoder: Decoder, names: Collection[str], *batches: Tensor) -> dict[str, Tensor]:
    """Return the inputs of some linear modules in passes over batches of tokens, (tokens, channels) in float64."""
    modules = dict(decoder.model.named_modules())
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        modules[name].register_forward_pre_hook(lambda _, args, own=own: own.append(args[0].flatten(0, 1).double()))
        for name, own in seen.items()
    ]
    with hooks(*handles):
        for tokens in batches:
            decoder.hidden(tokens)
    return {name: torch.cat(parts) for name, parts in seen.items()}


@contextmanager
def shapes_of_passes(decoder: Decoder) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes of the token ids of each pass of the trunk, in order."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, __: Any, keywords: dict[str, Any]) -> None:
        shapes.append(tuple(keywords["input_ids"].shape))

    with hooks(decoder.trunk.register_forward_pre_hook(note, with_kwargs=True)):
        yield shapes
