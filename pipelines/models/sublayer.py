"""One sublayer of a decoder, whose contribution to the residual stream can be observed, recomputed and dropped."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from prunescope.pipelines.models.module_calls import (
    Arguments,
    entered,
    first_tensor,
    hooks,
    other_forward,
    stream_of,
    watch_stream,
    with_cache,
    with_first,
)
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import on_device

Kind = Literal["attn", "mlp"]
Added = Float[Tensor, "batch tokens width"]
Observe = Callable[[Added], Added | None]
# A function of what a dropped sublayer would read; its result is added to the stream instead.
Substitution = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Branch:
    """Modules whose output, times a multiplier, is added to the stream.

    Attributes:
        chain: modules called in a row, each on the output of the one before: a mixer; a mixer and the norm after it;
            two linear modules and the activation between them.
        multiplier: factor of the output.
        residual: position or name of the argument that holds the stream, if the module itself adds the stream to its
            output; None if the layer adds them.
        is_post_norm: whether the last module reads the stream plus the output of the one before, and returns the next
            stream (BERT). The contribution is then the difference of the two streams, exact to the rounding of a
            stream, and dropping it drops the norm too.
    """

    chain: tuple[nn.Module, ...]
    multiplier: float = 1.0
    residual: int | str | None = None
    is_post_norm: bool = False

    @property
    def mixers(self) -> tuple[nn.Module, ...]:
        """Return the modules that hold matrices."""
        return tuple(module for module in self.chain if has_matrix(module))

    def run(self, call: Arguments) -> Tensor:
        """Return the contribution for recorded arguments; a residual that the module adds itself is not part of it."""
        args, kwargs = call if self.residual is None else without_residual(call, self.residual)[0]
        value = first_tensor(self.chain[0](*args, **kwargs))
        for module in self.chain[1:-1] if self.is_post_norm else self.chain[1:]:
            value = first_tensor(module(value))
        if self.is_post_norm:
            stream = stream_of(args, kwargs)
            return first_tensor(self.chain[-1](stream + value)) - stream
        return value if self.multiplier == 1 else value * self.multiplier

    def watch(self, observe: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
        """Call `observe` with every contribution in the layer's own shape; a tensor that it returns replaces it.

        The caller removes the hooks.
        """
        if self.is_post_norm:
            return self._watch_streams(observe)
        residuals: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:  # noqa: ARG001
            # The call gets zeros, and the residual is added afterwards: subtracting two streams would be less exact.
            call, residual = without_residual((args, kwargs), self.residual)
            residuals.append(residual)
            return call

        def after(module: nn.Module, args: tuple[Any, ...], output: object) -> object:  # noqa: ARG001
            value = first_tensor(output)
            # A clone, because some layers add to their output in place.
            changed = observe(value.clone() if self.multiplier == 1 else value * self.multiplier)
            if changed is not None:
                value = changed if self.multiplier == 1 else changed / self.multiplier
            if self.residual is not None:
                return with_first(output, value + residuals.pop())
            return None if changed is None else with_first(output, value)

        handles = [self.chain[-1].register_forward_hook(after)]
        if self.residual is not None:
            handles.append(self.chain[0].register_forward_pre_hook(before, with_kwargs=True))
        return handles

    def _watch_streams(self, observe: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
        streams: list[Tensor] = []

        def after(module: nn.Module, args: tuple[Any, ...], output: object) -> object:  # noqa: ARG001
            stream = streams.pop()
            changed = observe(first_tensor(output) - stream)
            return None if changed is None else with_first(output, stream + changed)

        return [watch_stream(self.chain[0], streams.append), self.chain[-1].register_forward_hook(after)]

    @contextmanager
    def dropped(self, substitute: Substitution | None = None) -> Iterator[None]:
        """Temporarily add nothing or a substitute to the stream; the modules still run and fill their caches."""
        inputs, forward = list[Tensor](), self.chain[-1].forward
        records = self.is_post_norm or substitute is not None

        def without_contribution(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any module's signature)
            output = forward(*args, **kwargs)
            state = inputs.pop() if records else None
            if state is not None and self.is_post_norm:
                value = state
            elif self.residual is not None:
                value = without_residual((args, kwargs), self.residual)[1]
            else:
                value = torch.zeros_like(first_tensor(output))
            if state is not None and substitute is not None:
                value = value + (substitute(state) / self.multiplier).reshape(value.shape)
            return with_first(output, value)

        recording = hooks(*([watch_stream(self.chain[0], inputs.append)] if records else []))
        with recording, other_forward(self.chain[-1], without_contribution):
            yield


@dataclass(frozen=True)
class SublayerCall:
    """The arguments of a sublayer's branches for one chunk of tokens, and the chunk's (batch, tokens)."""

    parts: tuple[Arguments, ...]
    shape: tuple[int, int]

    @property
    def values(self) -> Iterator[object]:
        """Yield all arguments."""
        for args, kwargs in self.parts:
            yield from args
            yield from kwargs.values()


@dataclass(frozen=True)
class Sublayer:
    """The attention or the MLP of one layer: all branches that mix positions, or all that do not.

    Attributes:
        layer: index from 0.
        kind: attn (attention, Mamba, linear attention, short convolution) or mlp.
        name: its modules' names in the model.
        host: the layer's module.
        parts: branches whose contributions sum to the sublayer's; more than one for parallel mixers.
        matrices: the weight matrices inside, by name.
        unread: names of stacked weights that no product of the probe read as matrices; they cannot be masked.
        modules: the modules of its branches and all modules inside them, by name in the model.
    """

    layer: int
    kind: Kind
    name: str
    host: nn.Module
    parts: tuple[Branch, ...]
    matrices: dict[str, Matrix]
    unread: tuple[str, ...] = ()
    modules: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return a short name such as `attn.3`."""
        return f"{self.kind}.{self.layer}"

    @property
    def mixers(self) -> tuple[nn.Module, ...]:
        """Return the modules that hold matrices."""
        return tuple(module for part in self.parts for module in part.mixers)

    @property
    def size(self) -> int:
        """Return the number of parameters."""
        return sum(parameter.numel() for mixer in self.mixers for parameter in mixer.parameters())

    def watch(self, observe: Observe) -> list[RemovableHandle]:
        """Call `observe` with the sublayer's contribution to the stream, at every call of its layer.

        `observe` gets a copy, (batch, tokens, width) in the model's dtype; a tensor that it returns replaces the
        contribution. The caller removes the hooks.
        """
        shape: list[int] = []
        contributions: list[Tensor] = []

        def begin(stream: Tensor) -> None:
            contributions.clear()
            shape[:] = stream.shape

        def collect(value: Tensor) -> Tensor | None:
            contributions.append(value.reshape(*shape[:-1], value.shape[-1]))
            if len(contributions) < len(self.parts):
                return None
            *others, last = contributions
            contributions.clear()  # else they would stay in memory until the pass ends
            changed = observe(sum(others, start=last))
            return None if changed is None else (changed - sum(others) if others else changed).reshape(value.shape)

        handles = [watch_stream(self.host, begin)]
        for part in self.parts:
            handles += part.watch(collect)
        return handles

    def record_calls(self, calls: list[SublayerCall]) -> list[RemovableHandle]:
        """Append every call of the sublayer to `calls`, for `recompute`; the caller removes the hooks."""
        shape: list[int] = []
        arguments: dict[int, Arguments] = {}

        def begin(stream: Tensor) -> None:
            arguments.clear()
            shape[:] = stream.shape

        def record(index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            arguments[index] = (args, kwargs)
            if len(arguments) == len(self.parts):
                parts = tuple(arguments[part] for part in range(len(self.parts)))
                calls.append(SublayerCall(parts, (shape[0], shape[1])))

        handles = [watch_stream(self.host, begin)]
        for index, part in enumerate(self.parts):
            handles.append(part.chain[0].register_forward_pre_hook(partial(record, index), with_kwargs=True))
        return handles

    def recompute(self, call: SublayerCall, cache: Cache | None = None) -> Added:
        """Recompute the contribution for a recorded call, one chunk, with the current weights.

        `cache` replaces the cache in the recorded arguments; it must hold the sublayer's own past.
        """
        calls = call.parts if cache is None else tuple(with_cache(part, cache) for part in call.parts)
        with self.on_device():
            first, *others = [part.run(arguments) for part, arguments in zip(self.parts, calls, strict=True)]
        value = sum(others, start=first)
        return value.reshape(*call.shape, value.shape[-1])

    def on_device(self) -> AbstractContextManager[None]:
        """Temporarily load the sublayer's weights to their device; see `weight_offload.on_device`."""
        return on_device(*(module for part in self.parts for module in part.chain))

    def dropped(self, substitute: Substitution | None = None) -> AbstractContextManager[None]:
        """Temporarily add nothing to the stream, or a substitute for all branches; see `Branch.dropped`."""
        first, *others = self.parts
        return entered([first.dropped(substitute), *(part.dropped() for part in others)])


def watch_all(sublayers: Iterable[Sublayer], observe: Callable[[str, Added], Added | None]) -> list[RemovableHandle]:
    """Call `observe` with the label and the contribution of each of some sublayers; see `Sublayer.watch`."""
    return [handle for each in sublayers for handle in each.watch(partial(observe, each.label))]


def has_matrix(module: nn.Module) -> bool:
    """Return whether a module holds more than gains and biases."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def without_residual(call: Arguments, key: int | str | None) -> tuple[Arguments, Tensor]:
    """Return a call with one argument replaced by zeros, and the replaced argument."""
    args, kwargs = call
    if isinstance(key, int):
        return ((*args[:key], torch.zeros_like(args[key]), *args[key + 1 :]), kwargs), args[key]
    residual = kwargs[str(key)]
    return (args, kwargs | {str(key): torch.zeros_like(residual)}), residual
