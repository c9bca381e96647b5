"""Sublayers left out of forward passes: none of their modules runs, and caches grow as if they had.

For passes whose outputs are all that is wanted; where hooks need every module's call, `Sublayer.dropped` is used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin

from prunescope.pipelines.models.forward_probe import ForwardRecorder, same_memory
from prunescope.pipelines.models.module_calls import hooks, other_forward, stream_of
from prunescope.pipelines.models.sublayer import Branch, Sublayer, has_matrix, without_residual


@dataclass(frozen=True)
class SkipPlan:
    """What is known of the modules that are left out.

    Attributes:
        lengths: by module, how many values it returns; None where it returns a tensor.
        norms: by a sublayer's label, the module in front of it that nothing else reads.
    """

    lengths: Mapping[nn.Module, int | None]
    norms: Mapping[str, nn.Module]

    @contextmanager
    def without(self, sublayers: Iterable[Sublayer]) -> Iterator[None]:
        """Leaves out some sublayers for a while; a layer without both returns what it is given."""
        gone: dict[nn.Module, list[Sublayer]] = {}
        for sublayer in sublayers:
            gone.setdefault(sublayer.host, []).append(sublayer)
        with ExitStack() as stack:
            for host, own in gone.items():
                for each in own:
                    if each.kind == "attn":
                        growing = host.register_forward_pre_hook(_growing(each.layer), with_kwargs=True)
                        stack.enter_context(hooks(growing))
                is_whole = len(own) == 2
                for module in [host] if is_whole else self._passing(own[0]):
                    stack.enter_context(other_forward(module, self._given(module)))
                for part in () if is_whole else own[0].parts:
                    stack.enter_context(other_forward(part.chain[0], self._nothing(part)))
            yield

    def _passing(self, sublayer: Sublayer) -> Iterator[nn.Module]:
        """The modules that pass on what they are given: all but the first of each part."""
        if sublayer.label in self.norms:
            yield self.norms[sublayer.label]
        for part in sublayer.parts:
            yield from part.chain[1:]

    def _given(self, module: nn.Module) -> Callable[..., object]:
        def forward(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any module's signature)
            return self._returned(module, stream_of(args, kwargs))

        return forward

    def _nothing(self, part: Branch) -> Callable[..., object]:
        """A forward that adds nothing to the stream: zeros, or the stream itself where the module adds."""

        def forward(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any module's signature)
            if part.residual is not None:
                return self._returned(part.chain[0], without_residual((args, kwargs), part.residual)[1])
            return self._returned(part.chain[0], torch.zeros_like(stream_of(args, kwargs)))

        return forward

    def _returned(self, module: nn.Module, value: Tensor) -> object:
        length = self.lengths[module]
        return value if length is None else (value, *[None] * (length - 1))


def find_skips(sublayers: Sequence[Sublayer], run: ForwardRecorder) -> SkipPlan | None:
    """What is known after a run of the whole model; for the caller to prove. None where a module's form is not known.

    Args:
        sublayers: all of the model.
        run: what every module read and returned.
    """
    lengths: dict[nn.Module, int | None] = {}
    norms: dict[str, nn.Module] = {}
    for sublayer in sublayers:
        norm = _norm_of(sublayer, run)
        norms |= {} if norm is None else {sublayer.label: norm}
        chains = [module for part in sublayer.parts for module in part.chain]
        for module in (sublayer.host, *chains, *([] if norm is None else [norm])):
            seen = run.once(module)
            if seen is None:
                return None
            lengths[module] = None if isinstance(seen.output, Tensor) else len(seen.output)
    return SkipPlan(lengths, norms)


def _norm_of(sublayer: Sublayer, run: ForwardRecorder) -> nn.Module | None:
    """The module without matrices in front of a sublayer, if no other module of the layer reads it."""
    children = {child: seen for child in sublayer.host.children() if (seen := run.once(child)) is not None}
    firsts = {part.chain[0] for part in sublayer.parts}
    for child, seen in children.items():
        readers = {other for other, its in children.items() if same_memory(its.given, seen.returned)} - {child}
        if not has_matrix(child) and readers == firsts:
            return child
    return None


def _growing(layer: int) -> Callable[..., None]:
    """A hook on a layer that makes its cache as long as if the tokens had passed, with one number a token."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
        if cache is None:
            return
        own = cache.layers[layer] if layer < len(cache.layers) else None
        if own is None or isinstance(own, CacheLayerMixin):  # caches made without a config grow by themselves
            batch, tokens = stream_of(args, kwargs).shape[:2]
            nothing = stream_of(args, kwargs).new_zeros(batch, 1, tokens, 1)
            cache.update(nothing, nothing, layer)
        if isinstance(own, LinearAttentionCacheLayerMixin):
            own.has_previous_state = dict.fromkeys(own.has_previous_state, True)

    return hook
