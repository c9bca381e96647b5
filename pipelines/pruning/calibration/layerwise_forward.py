"""Runs a model over tokens layer by layer: the residual streams of all tokens move through one layer at a time.

What is measured in a layer, and with which weights it computes, is the caller's business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import (
    Arguments,
    call_with_state,
    hooks,
    other_forward,
    stream_of,
    with_first,
)
from prunescope.pipelines.models.weight_matrices import Matrix, Products
from prunescope.pipelines.models.weight_offload import on_device, retyped
from prunescope.pipelines.pruning.calibration.activation_moments import (
    ActivationMoments,
    InputRecorder,
    StopForwardError,
)

# Sequences of one forward pass: enough to fill the matrix products, little memory.
BATCH = 4
# Residual streams between two layers, one tensor a batch; `advance` puts the next ones in their place.
States = list[Float[Tensor, "batch length width"]]


class Streams:
    """How every layer is called on some tokens; several streams can move through the layers side by side.

    Args:
        decoder: the model.
        tokens: which.
        dtype: type of weights and activations in the layers; None is the model's own. One layer is cast at a time.
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
            outputs = _outputs(decoder, batches[0][:1, :2])
            with cast_parameters(outside, dtype):
                # Layers that return what they are given show how each is called, and cost little.
                self._calls: list[list[Arguments]] = []
                for batch in batches:
                    calls = _calls(decoder, batch, outputs)
                    # Masks and rotary tables that do not depend on the tokens are kept once, not once a batch.
                    self._calls.append(_sharing(calls, self._calls[0]) if self._calls else calls)

    def begin(self) -> States:
        """The streams before the first layer."""
        return [stream_of(*calls[0]) for calls in self._calls]

    @torch.inference_mode()
    def measure(
        self,
        index: int,
        states: States,
        matrices: Mapping[str, Matrix],
        *,
        with_gram: bool = False,
        with_tails: bool = False,
        advances: bool = False,
    ) -> dict[str, ActivationMoments]:
        """Runs a layer as it is now; what flowed into its matrices, by name.

        Args:
            index: which layer.
            states: the streams in front of it.
            matrices: some of its matrices.
            with_gram: whether Gram matrices are wanted.
            with_tails: whether fourth moments and largest inputs are wanted.
            advances: whether the streams move through it, too; else it is not run further than needed.

        Raises:
            ComputationError: an input was NaN or infinite.
        """
        if not matrices and not advances:
            return {}
        module = self._modules[index]
        with on_device(module), cast_parameters(module.parameters(), self._dtype):
            watch = InputRecorder(matrices, with_gram=with_gram, with_tails=with_tails, stops=not advances)
            for batch in range(len(states)):
                with suppress(StopForwardError), Products(watch.see):
                    after = self._run(index, batch, states[batch])
                    if advances:
                        states[batch] = after
                watch.count()
        return watch.inputs

    @torch.inference_mode()
    def advance(self, index: int, states: States) -> None:
        """Moves the streams through a layer as it is now."""
        module = self._modules[index]
        with on_device(module), cast_parameters(module.parameters(), self._dtype):
            for batch in range(len(states)):
                states[batch] = self._run(index, batch, states[batch])

    def _run(self, index: int, batch: int, state: Tensor) -> Tensor:
        return call_with_state(self._modules[index], *self._calls[batch][index], state)


@contextmanager
def cast_parameters(parameters: Iterable[nn.Parameter], dtype: torch.dtype | None) -> Iterator[None]:
    """Parameters of another type for a while; None leaves them alone.

    Buffers keep their type: rotary frequencies rounded to 8 bits would be another model. The head keeps a view of its
    own of the weights, so that a tied embedding does not round it.
    """
    before = [] if dtype is None else [(parameter, parameter.data) for parameter in parameters]
    try:
        for parameter, data in before:
            parameter.data = data if dtype is None else retyped(parameter, dtype)
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


def _outputs(decoder: Decoder, tokens: Int[Tensor, "1 few"]) -> list[object]:
    """What the forward of every layer returns, by a run on a few tokens: a tensor, or a tuple that begins with one."""
    found: list[object] = []
    with hooks(*(layer.module.register_forward_hook(lambda *call: found.append(call[2])) for layer in decoder.layers)):
        decoder.hidden(tokens)
    return found


def _calls(decoder: Decoder, tokens: Int[Tensor, "batch length"], outputs: Sequence[object]) -> list[Arguments]:
    """How every layer is called on some tokens; the state among the arguments is that of the embeddings."""
    found: list[Arguments] = []
    with ExitStack() as stack:
        for layer, output in zip(decoder.layers, outputs, strict=True):
            stack.enter_context(other_forward(layer.module, _returning_what_it_is_given(found, output)))
        decoder.hidden(tokens)
    return found


def _sharing(value: Any, known: Any) -> Any:  # noqa: ANN401 (arguments of any layer)
    """The same arguments, with tensors of `known` in place of equal ones."""
    if isinstance(value, Tensor):
        is_known = isinstance(known, Tensor) and known.dtype == value.dtype and torch.equal(known, value)
        return known if is_known else value
    if type(value) is dict and isinstance(known, dict):
        return {key: _sharing(each, known.get(key)) for key, each in value.items()}
    if type(value) in {tuple, list} and isinstance(known, (tuple, list)) and len(value) == len(known):
        return type(value)(_sharing(each, other) for each, other in zip(value, known, strict=True))
    return value


def _returning_what_it_is_given(found: list[Arguments], output: object) -> Callable[..., object]:
    def forward(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any layer's signature)
        found.append((args, kwargs))
        return with_first(output, stream_of(args, kwargs))

    return forward
