"""One sublayer of a decoder: what it adds to the residual stream, seen, computed again, and taken away.

How its modules are found and proved is `structure.py`'s; nothing here knows an architecture.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from prunescope.pipelines.models.module_calls import (
    Arguments,
    first_tensor,
    hooks,
    other_forward,
    stream_of,
    with_cache,
    with_first,
)
from prunescope.pipelines.models.weight_matrices import Matrix
from prunescope.pipelines.models.weight_offload import on_device

Kind = Literal["attn", "mlp"]
Added = Float[Tensor, "batch tokens width"]
See = Callable[[Added], Added | None]


@dataclass(frozen=True)
class Branch:
    """Modules whose output, times a number, is added to the stream.

    Attributes:
        chain: called in a row, each on what the one before returns: a mixer; a mixer and the norm behind it; two
            linear modules and the activation between them.
        multiplier: the number.
        residual: argument, by position or name, through which the module is given the stream that it adds itself;
            None where the layer adds.
        is_post_norm: the last module is given the sum of the stream and of what the one before returns, and what it
            returns is the next stream (BERT). The contribution is then the difference of the two streams, exact to
            the rounding of a stream; without it the norm is gone, too.
    """

    chain: tuple[nn.Module, ...]
    multiplier: float = 1.0
    residual: int | str | None = None
    is_post_norm: bool = False

    @property
    def mixers(self) -> tuple[nn.Module, ...]:
        """The modules that hold matrices."""
        return tuple(module for module in self.chain if has_matrix(module))

    def run(self, call: Arguments) -> Tensor:
        """Its contribution when it is called as it was; a residual of its own counts as zero."""
        args, kwargs = call if self.residual is None else without_residual(call, self.residual)[0]
        value = first_tensor(self.chain[0](*args, **kwargs))
        for module in self.chain[1:-1] if self.is_post_norm else self.chain[1:]:
            value = first_tensor(module(value))
        if self.is_post_norm:
            stream = stream_of(args, kwargs)
            return first_tensor(self.chain[-1](stream + value)) - stream
        return value if self.multiplier == 1 else value * self.multiplier

    def watch(self, see: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
        """Calls `see` with every contribution, in the layer's own shape; what it returns is added instead."""
        if self.is_post_norm:
            return self._watch_streams(see)
        residuals: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:  # noqa: ARG001
            # Zero in its place, and the sum afterwards: a contribution must not be a difference of two streams.
            call, residual = without_residual((args, kwargs), self.residual)
            residuals.append(residual)
            return call

        def behind(module: nn.Module, args: tuple[Any, ...], output: object) -> object:  # noqa: ARG001
            value = first_tensor(output)
            # A copy: some layers sum into it.
            instead = see(value.clone() if self.multiplier == 1 else value * self.multiplier)
            if instead is not None:
                value = instead if self.multiplier == 1 else instead / self.multiplier
            if self.residual is not None:
                return with_first(output, value + residuals.pop())
            return None if instead is None else with_first(output, value)

        handles = [self.chain[-1].register_forward_hook(behind)]
        if self.residual is not None:
            handles.append(self.chain[0].register_forward_pre_hook(before, with_kwargs=True))
        return handles

    def _watch_streams(self, see: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
        """`watch` where the norm makes the next stream."""
        streams: list[Tensor] = []

        def behind(module: nn.Module, args: tuple[Any, ...], output: object) -> object:  # noqa: ARG001
            before = streams.pop()
            instead = see(first_tensor(output) - before)
            return None if instead is None else with_first(output, before + instead)

        return [self._keep_stream(streams), self.chain[-1].register_forward_hook(behind)]

    def _keep_stream(self, streams: list[Tensor]) -> RemovableHandle:
        """Keeps the stream that the first module is called on."""

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            streams.append(stream_of(args, kwargs))

        return self.chain[0].register_forward_pre_hook(before, with_kwargs=True)

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Adds nothing to the stream for a while; all else, caches included, goes on as it was."""
        streams, forward = list[Tensor](), self.chain[-1].forward

        def silenced(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any module's signature)
            output = forward(*args, **kwargs)
            if self.is_post_norm:
                return with_first(output, streams.pop())
            if self.residual is not None:
                return with_first(output, without_residual((args, kwargs), self.residual)[1])
            return with_first(output, torch.zeros_like(first_tensor(output)))

        kept = hooks(*([self._keep_stream(streams)] if self.is_post_norm else []))
        with kept, other_forward(self.chain[-1], silenced):
            yield


@dataclass(frozen=True)
class SublayerCall:
    """How the parts of a sublayer were called on one chunk of tokens, and that chunk's (batch, tokens)."""

    parts: tuple[Arguments, ...]
    shape: tuple[int, int]

    @property
    def values(self) -> Iterator[object]:
        """All arguments."""
        for args, kwargs in self.parts:
            yield from args
            yield from kwargs.values()


@dataclass(frozen=True)
class Sublayer:
    """The attention or the MLP of one layer: all that mixes positions, or all that does not.

    Attributes:
        layer: index from 0.
        kind: attn (attention, Mamba, linear attention, short convolution) or mlp.
        name: its modules' names in the model.
        host: the layer's module.
        parts: what it adds is the sum of theirs; one, but for two mixers side by side.
        matrices: the weight matrices inside, by name.
        unread: stacked weights that are no matrices as far as the probe has seen; they cannot be masked.
        modules: all modules inside, the mixers and theirs, by their name in the model.
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
        """Short name such as `attn.3`."""
        return f"{self.kind}.{self.layer}"

    @property
    def mixers(self) -> tuple[nn.Module, ...]:
        """The modules that hold its matrices."""
        return tuple(module for part in self.parts for module in part.mixers)

    @property
    def size(self) -> int:
        """Number of its parameters."""
        return sum(parameter.numel() for mixer in self.mixers for parameter in mixer.parameters())

    def watch(self, see: See) -> list[RemovableHandle]:
        """Calls `see` with what the sublayer adds to the stream, at every call of its layer.

        Args:
            see: gets the contribution, (batch, tokens, width) in the model's type, a tensor of its own; a tensor that
                it returns is added instead.

        Returns:
            Hooks for the caller to remove.
        """
        shapes: list[torch.Size] = []
        found: list[Tensor] = []

        def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            found.clear()
            shapes[:] = [stream_of(args, kwargs).shape]

        def collect(value: Tensor) -> Tensor | None:
            found.append(value.reshape(*shapes[0][:-1], value.shape[-1]))
            if len(found) < len(self.parts):
                return None
            others = found[:-1]
            instead = see(sum(others, start=found[-1]))
            return None if instead is None else (instead - sum(others) if others else instead).reshape(value.shape)

        handles = [self.host.register_forward_pre_hook(remember, with_kwargs=True)]
        for part in self.parts:
            handles += part.watch(collect)
        return handles

    def keep_calls(self, calls: list[SublayerCall]) -> list[RemovableHandle]:
        """Appends to `calls` how the sublayer is called, for `replay`; the caller removes the hooks."""
        shapes: list[torch.Size] = []
        found: dict[int, Arguments] = {}

        def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
            found.clear()
            shapes[:] = [stream_of(args, kwargs).shape]

        def keep(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
                found[index] = (args, kwargs)
                if len(found) == len(self.parts):
                    parts = tuple(found[each] for each in range(len(self.parts)))
                    calls.append(SublayerCall(parts, (shapes[0][0], shapes[0][1])))

            return hook

        return [
            self.host.register_forward_pre_hook(remember, with_kwargs=True),
            *(
                part.chain[0].register_forward_pre_hook(keep(index), with_kwargs=True)
                for index, part in enumerate(self.parts)
            ),
        ]

    def replay(self, call: SublayerCall, cache: Cache | None = None) -> Added:
        """What it adds when it is called as it was, with the weights that it has now.

        Args:
            call: one chunk.
            cache: takes the place of the cache that was passed then; it must hold this sublayer's own past.
        """
        calls = call.parts if cache is None else tuple(with_cache(part, cache) for part in call.parts)
        with self.on_device():
            first, *others = [part.run(arguments) for part, arguments in zip(self.parts, calls, strict=True)]
        value = sum(others, start=first)
        return value.reshape(*call.shape, value.shape[-1])

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Its weights are where they are used for a while; see `turns.present`."""
        with on_device(*(module for part in self.parts for module in part.chain)):
            yield

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Adds nothing to the stream for a while."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.dropped())
            yield


def has_matrix(module: nn.Module) -> bool:
    """Whether a module holds more than gains and biases."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def without_residual(call: Arguments, key: int | str | None) -> tuple[Arguments, Tensor]:
    """A call with zeros in place of one argument, and that argument."""
    args, kwargs = call
    if isinstance(key, int):
        return ((*args[:key], torch.zeros_like(args[key]), *args[key + 1 :]), kwargs), args[key]
    residual = kwargs[str(key)]
    return (args, kwargs | {str(key): torch.zeros_like(residual)}), residual
