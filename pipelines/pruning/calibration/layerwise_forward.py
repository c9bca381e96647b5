"""Layer-by-layer forward passes: the residual streams of all tokens move through one layer at a time."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import (
    Arguments,
    call_with_state,
    entered,
    hooks,
    other_forward,
    quick_linears,
    stream_of,
    with_first,
)
from prunescope.pipelines.models.weight_matrices import Matrix, Products
from prunescope.pipelines.models.weight_offload import on_device, retyped, swapped_data
from prunescope.pipelines.pruning.calibration.activation_moments import (
    ActivationMoments,
    InputRecorder,
    StopForwardError,
)

# Sequences per forward pass: enough for efficient matrix products, with little memory.
BATCH = 4


class Streams:
    """The residual streams of some tokens before a layer; passes through the layers replace them one after the other.

    Weights and activations of one layer at a time are cast to `dtype`; None is the model's own.

    Attributes:
        states: one tensor per batch.
    """

    def __init__(
        self, decoder: Decoder, tokens: Int[Tensor, "sequences length"], dtype: torch.dtype | None = None
    ) -> None:
        self._modules = [layer.module for layer in decoder.layers]
        self._dtype = dtype
        batches = [batch.to(decoder.device) for batch in tokens.split(decoder.at_once(BATCH))]
        inside = {parameter for module in self._modules for parameter in module.parameters()}
        outside = [parameter for parameter in decoder.trunk.parameters() if parameter not in inside]
        with torch.inference_mode():
            outputs: list[object] = []  # of each layer: a tensor, or a tuple that begins with one
            record = (
                layer.module.register_forward_hook(lambda *call: outputs.append(call[2])) for layer in decoder.layers
            )
            with hooks(*record):
                decoder.hidden(batches[0][:1, :2])
            with cast_parameters(outside, dtype):
                # A run whose layers return their input records the arguments of every layer at little cost.
                self._calls: list[list[Arguments]] = []
                for batch in batches:
                    calls = _calls(decoder, batch, outputs)
                    # Masks and rotary tables that do not depend on the tokens are stored once for all batches.
                    self._calls.append(_sharing(calls, self._calls[0]) if self._calls else calls)
        self.states: list[Float[Tensor, "batch length width"]] = [stream_of(*calls[0]) for calls in self._calls]

    def copy(self) -> "Streams":
        """Return the same streams, which then move independently of these."""
        other = copy(self)
        other.states = list(self.states)
        return other

    @torch.inference_mode()
    def measure(
        self,
        index: int,
        matrices: Mapping[str, Matrix],
        *,
        grams: Collection[str] = (),
        with_tails: bool = False,
        advances: bool = False,
    ) -> dict[str, ActivationMoments]:
        """Run a layer with its current weights and return the inputs of some of its matrices, by name.

        `grams` and `with_tails` are those of `InputRecorder`. `advances` replaces the streams by the layer's output;
        without it a batch may stop early.

        Raises:
            ComputationError: an input is NaN or infinite.
        """
        if not matrices and not advances:
            return {}
        module = self._modules[index]
        with on_device(module), cast_parameters(module.parameters(), self._dtype):
            recorder = InputRecorder(matrices, grams=grams, with_tails=with_tails, stops=not advances)
            for batch in range(len(self.states)):
                with suppress(StopForwardError), Products(recorder.observe):
                    after = self._run(index, batch)
                    if advances:
                        self.states[batch] = after
                recorder.finish_batch()
        return recorder.inputs

    @torch.inference_mode()
    def advance(self, index: int) -> None:
        """Replace the streams by the output of a layer with its current weights."""
        for batch, after in enumerate(self.outputs(index)):
            self.states[batch] = after

    @torch.inference_mode()
    def outputs(self, index: int) -> Iterator[Float[Tensor, "batch length width"]]:
        """Yield a layer's output with its current weights, batch by batch."""
        module = self._modules[index]
        with on_device(module), cast_parameters(module.parameters(), self._dtype):
            for batch in range(len(self.states)):
                yield self._run(index, batch)

    def _run(self, index: int, batch: int) -> Tensor:
        with quick_linears(self._modules[index]):
            return call_with_state(self._modules[index], *self._calls[batch][index], self.states[batch])


def cast_parameters(parameters: Iterable[nn.Parameter], dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Temporarily cast parameters to a dtype; None changes nothing.

    Buffers keep their dtype, because rounded rotary frequencies would change the model. The head has its own view of
    the weights, so a tied embedding does not round it.
    """
    return nullcontext() if dtype is None else swapped_data(parameters, partial(retyped, dtype=dtype))


def _calls(decoder: Decoder, tokens: Int[Tensor, "batch length"], outputs: Sequence[object]) -> list[Arguments]:
    """Return the arguments of every layer's call; the state in them is the embeddings."""
    calls: list[Arguments] = []

    def forward(output: object, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any layer's signature)
        calls.append((args, kwargs))
        return with_first(output, stream_of(args, kwargs))

    layers = zip(decoder.layers, outputs, strict=True)
    with entered(other_forward(layer.module, partial(forward, output)) for layer, output in layers):
        decoder.hidden(tokens)
    return calls


def _sharing(value: Any, known: Any, equal: dict[tuple[int, int], bool] | None = None) -> Any:  # noqa: ANN401 (of layers)
    """Return the arguments with tensors replaced by equal ones of `known`; each pair of tensors is compared once."""
    equal = {} if equal is None else equal
    if isinstance(value, Tensor):
        if not isinstance(known, Tensor) or known.dtype != value.dtype:
            return value
        pair = id(value), id(known)
        if pair not in equal:
            equal[pair] = torch.equal(known, value)
        return known if equal[pair] else value
    if type(value) is dict and isinstance(known, dict):
        return {key: _sharing(item, known.get(key), equal) for key, item in value.items()}
    if type(value) in {tuple, list} and isinstance(known, (tuple, list)) and len(value) == len(known):
        return type(value)(_sharing(item, other, equal) for item, other in zip(value, known, strict=True))
    return value
