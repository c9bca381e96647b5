"""Changes the matrices of a model layer by layer, each on the inputs that the layers before give it.

What becomes of one matrix is `pipelines.pruning.methods`'s; only one layer's statistics are in memory at a time.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pipelines.errors import InputError
from pipelines.inputs import Inputs, Watch
from pipelines.models.calls import Arguments, call_with_state, hooks, stream_of, with_first
from pipelines.models.decoder import Decoder, Layer
from pipelines.models.matrices import Matrix, Products
from pipelines.progress import SILENT, Progress
from pipelines.pruning.changes import Change
from pipelines.pruning.methods import Given, change_of
from pipelines.pruning.recipes import Masked, MatrixRecipe
from pipelines.pruning.variant import Variant
from pipelines.pruning.wearing import swapped

# Sequences of one forward pass: enough to fill the matrix products, little memory.
BATCH = 4


@torch.inference_mode()
def prune_layers(
    decoder: Decoder,
    recipe: MatrixRecipe,
    tokens: Int[Tensor, "sequences length"],
    sparsities: Sequence[float | None],
    base: Variant,
    progress: Progress = SILENT,
) -> Variant:
    """Changes every included matrix, from the first layer to the last.

    Args:
        decoder: the dense model; its weights are read, not changed.
        recipe: what to do.
        tokens: calibration tokens; empty where the recipe reads no inputs.
        sparsities: of every layer.
        base: what earlier recipes of a composition did.
        progress: one step a layer.

    Returns:
        The base with the recipe's changes.

    Raises:
        InputError: the recipe does not fit the model.
        ComputationError: an input or a score is NaN or infinite.
    """
    changes: dict[str, Change] = dict(base.changes)
    facts: dict[str, Any] = dict(base.facts)
    streams = Streams(decoder, tokens) if recipe.reads != "nothing" else None
    progress.start(f"prune {recipe.name}", len(decoder.layers))
    for index, layer in enumerate(decoder.layers):
        chosen = chosen_matrices(layer, recipe, base.dropped)
        dense = {name: matrix.weight for name, matrix in chosen.items()}
        with worn(layer, base):
            inputs = streams.inputs(index, chosen, with_gram=recipe.reads == "gram") if streams else {}
            for name, matrix in chosen.items():
                before = base.changes.get(name)
                kept = None if before is None else before.mask
                given = Given(name, index, matrix.weight, dense[name], kept, inputs.get(name), sparsities[index], facts)
                change = change_of(given, recipe)
                changes[name] = change if before is None else before.then(change, dense[name])
        if streams:
            after = Variant(changes, base.parameters, base.dropped) if recipe.predecessors == "pruned" else base
            with worn(layer, after):
                streams.advance(index)
        progress.advance()
    progress.done()
    return Variant(changes, base.parameters, base.dropped, facts=facts)


def chosen_matrices(layer: Layer, recipe: MatrixRecipe, dropped: Collection[str] = ()) -> dict[str, Matrix]:
    """The matrices of a layer that a recipe includes, by name, in the order in which the stream meets them.

    Args:
        layer: the layer.
        recipe: its `modules` are the choice.
        dropped: labels of sublayers that are gone already: nothing is left to change in them.
    """
    return {
        name: matrix
        for sublayer in layer.sublayers
        if sublayer.label not in dropped
        for name, matrix in sublayer.matrices.items()
        if not recipe.modules
        or any(sublayer.kind == pattern or fnmatchcase(name, pattern) for pattern in recipe.modules)
    }


@contextmanager
def worn(layer: Layer, variant: Variant) -> Iterator[None]:
    """One layer computes as a variant's does for a while."""
    with ExitStack() as stack:
        for sublayer in layer.sublayers:
            stack.enter_context(swapped([sublayer], variant.weights(sublayer)))
            if sublayer.label in variant.dropped:
                stack.enter_context(sublayer.dropped())
        yield


class Streams:
    """The residual streams of the calibration tokens between two layers, and how every layer is called on them.

    Args:
        decoder: the model.
        tokens: calibration tokens.
    """

    def __init__(self, decoder: Decoder, tokens: Int[Tensor, "sequences length"]) -> None:
        self._decoder = decoder
        batches = [batch.to(decoder.device) for batch in tokens.split(BATCH)]
        outputs = _outputs(decoder, batches[0][:1, :2])
        # How each layer is called on each batch: found with layers that return what they are given, which costs little.
        self._calls = [_calls(decoder, batch, outputs) for batch in batches]
        self._states = [stream_of(*calls[0]) for calls in self._calls]

    def inputs(self, index: int, matrices: Mapping[str, Matrix], *, with_gram: bool) -> dict[str, Inputs]:
        """Runs a layer on all batches as it is now; what flowed into its matrices, by name."""
        watch = Watch(matrices, with_gram=with_gram)
        with Products(watch.see):
            for calls, state in zip(self._calls, self._states, strict=True):
                call_with_state(self._decoder.layers[index].module, *calls[index], state)
                watch.count()
        return watch.inputs

    def advance(self, index: int) -> None:
        """Moves the streams through a layer as it is now."""
        module = self._decoder.layers[index].module
        for batch, calls in enumerate(self._calls):
            self._states[batch] = call_with_state(module, *calls[index], self._states[batch])


def _outputs(decoder: Decoder, tokens: Int[Tensor, "1 few"]) -> list[object]:
    """What the forward of every layer returns, by a run on a few tokens: a tensor, or a tuple that begins with one."""
    found: list[object] = []
    with hooks(*(layer.module.register_forward_hook(lambda *call: found.append(call[2])) for layer in decoder.layers)):
        decoder.hidden(tokens)
    return found


def _calls(decoder: Decoder, tokens: Int[Tensor, "batch length"], outputs: Sequence[object]) -> list[Arguments]:
    """How every layer is called on some tokens; the state among the arguments is that of the embeddings."""
    found: list[Arguments] = []
    modules = [layer.module for layer in decoder.layers]
    for module, output in zip(modules, outputs, strict=True):
        module.forward = _returning_what_it_is_given(found, output)
    try:
        decoder.hidden(tokens)
    finally:
        for module in modules:
            del module.forward
    return found


def _returning_what_it_is_given(found: list[Arguments], output: object) -> Callable[..., object]:
    def forward(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any layer's signature)
        found.append((args, kwargs))
        return with_first(output, stream_of(args, kwargs))

    return forward


def layer_sparsities(decoder: Decoder, recipe: MatrixRecipe) -> list[float | None]:
    """The share of weights that a recipe sets to zero in every layer; None where it is no share.

    Raises:
        InputError: the recipe gives one ratio a layer, but not for as many as there are.
    """
    count = len(decoder.layers)
    if not isinstance(recipe, Masked):
        return [None] * count
    if isinstance(recipe.ratios, tuple):
        if len(recipe.ratios) != count:
            raise InputError(f"recipe {recipe.name}: {len(recipe.ratios)} `ratios`, but the model has {count} layers")
        return list(recipe.ratios)
    return [recipe.sparsity] * count
