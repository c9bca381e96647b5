"""Skipping of sublayers in forward passes: none of their modules runs, but caches grow as if they had.

If hooks need every module's call, use `Sublayer.dropped` instead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin

from prunescope.pipelines.models.forward_probe import ForwardRecorder, same_memory
from prunescope.pipelines.models.module_calls import hooks, other_forward, stream_of
from prunescope.pipelines.models.sublayer import Branch, Sublayer, Substitution, has_matrix, without_residual


@dataclass(frozen=True)
class SkipPlan:
    """Facts about modules that are needed to skip them.

    `lengths` is the number of values that each module returns; None if it returns a tensor. `norms` maps the label of a
    sublayer to the norm before it, if no other module reads that norm.
    """

    lengths: Mapping[nn.Module, int | None]
    norms: Mapping[str, nn.Module]

    @contextmanager
    def without(
        self, sublayers: Iterable[Sublayer], substitutes: Mapping[str, Substitution] | None = None
    ) -> Iterator[None]:
        """Temporarily skip some sublayers; a layer that skips both returns its input.

        `substitutes`, by label, are added in place of some; the norms before these still run.
        """
        substitutes = substitutes or {}
        by_layer: dict[nn.Module, list[Sublayer]] = {}
        for sublayer in sublayers:
            by_layer.setdefault(sublayer.host, []).append(sublayer)
        with ExitStack() as stack:
            for host, skipped in by_layer.items():
                for sublayer in skipped:
                    if sublayer.kind == "attn":
                        growing = host.register_forward_pre_hook(partial(_grow, sublayer.layer), with_kwargs=True)
                        stack.enter_context(hooks(growing))
                if len(skipped) == 2 and not any(each.label in substitutes for each in skipped):
                    stack.enter_context(other_forward(host, partial(self._identity, host)))
                    continue
                for sublayer in skipped:
                    substitute = substitutes.get(sublayer.label)
                    # The norm before a sublayer and all but the first module of each branch pass values through.
                    norm = self.norms.get(sublayer.label) if substitute is None else None
                    through = [] if norm is None else [norm]
                    through += [module for part in sublayer.parts for module in part.chain[1:]]
                    for module in through:
                        stack.enter_context(other_forward(module, partial(self._identity, module)))
                    for part in sublayer.parts:
                        own = substitute if part is sublayer.parts[0] else None
                        stack.enter_context(other_forward(part.chain[0], partial(self._contribution, part, own)))
            yield

    def _identity(self, module: nn.Module, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any signature)
        return self._in_form_of(module, stream_of(args, kwargs))

    def _contribution(self, part: Branch, substitute: Substitution | None, *args: Any, **kwargs: Any) -> object:  # noqa: ANN401 (any signature)
        """Return zeros or what a substitute adds, and the stream itself if the module adds it."""
        state = stream_of(args, kwargs)
        value = torch.zeros_like(state) if part.residual is None else without_residual((args, kwargs), part.residual)[1]
        if substitute is not None:
            value = value + substitute(state) / part.multiplier
        return self._in_form_of(part.chain[0], value)

    def _in_form_of(self, module: nn.Module, value: Tensor) -> object:
        length = self.lengths[module]
        return value if length is None else (value, *[None] * (length - 1))


def find_skips(sublayers: Sequence[Sublayer], run: ForwardRecorder) -> SkipPlan | None:
    """Return a plan from a run of the whole model, for the caller to prove; None if an output's form is unknown."""
    lengths: dict[nn.Module, int | None] = {}
    norms: dict[str, nn.Module] = {}
    for sublayer in sublayers:
        norm = _norm_before(sublayer, run)
        norms |= {} if norm is None else {sublayer.label: norm}
        chains = [module for part in sublayer.parts for module in part.chain]
        for module in (sublayer.host, *chains, *([] if norm is None else [norm])):
            call = run.once(module)
            if call is None:
                return None
            lengths[module] = None if isinstance(call.output, Tensor) else len(call.output)
    return SkipPlan(lengths, norms)


def _norm_before(sublayer: Sublayer, run: ForwardRecorder) -> nn.Module | None:
    """Return the module without matrices before a sublayer, if no other module of the layer reads it."""
    calls = {child: call for child in sublayer.host.children() if (call := run.once(child)) is not None}
    firsts = {part.chain[0] for part in sublayer.parts}
    for child, call in calls.items():
        readers = {other for other, use in calls.items() if same_memory(use.input, call.output_tensor)} - {child}
        if not has_matrix(child) and readers == firsts:
            return child
    return None


def _grow(layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Extend a layer's cache by the new tokens, with one number for each."""
    cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
    if cache is None:
        return
    cached = cache.layers[layer] if layer < len(cache.layers) else None
    # Caches made without a config add their layers in `update`.
    if cached is None or isinstance(cached, CacheLayerMixin):
        batch, tokens = stream_of(args, kwargs).shape[:2]
        zeros = stream_of(args, kwargs).new_zeros(batch, 1, tokens, 1)
        cache.update(zeros, zeros, layer)
    if isinstance(cached, LinearAttentionCacheLayerMixin):
        cached.has_previous_state = dict.fromkeys(cached.has_previous_state, True)
