"""Passes of a float32 decoder whose layers compute in float64, with one layer's weights converted at a time."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.cpu_matmul import product64
from prunescope.pipelines.metrics.output_head import FinalNorm, find_final_norm
from prunescope.pipelines.metrics.rounding import is_close
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.module_calls import CODE_ERRORS, Arguments, hooks, other_forward
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_offload import swapped_data

Norms = Mapping[nn.Module, FinalNorm]


@torch.inference_mode()
def float64_norms(decoder: Decoder) -> Norms | None:
    """Return the formulas of the norms inside and after the layers for `in_float64`, or None if it cannot be used.

    A decoder can compute in float64 if it has float32 weights on a CPU and its states of a probe stay the same up to
    rounding. The formulas replace the norms, because most RMSNorms compute in float32 even on float64 input.
    """
    if decoder.device.type != "cpu" or decoder.dtype != torch.float32 or decoder.is_rounded:
        return None
    norms: dict[nn.Module, FinalNorm] = {}
    if decoder.output is not None and decoder.head.norm is not None:
        norms[decoder.final_norm] = decoder.head.norm
    for layer in decoder.layers:
        for module in layer.module.modules():
            weight = getattr(module, "weight", None)
            # A norm has a vector of weights and no modules inside.
            if not isinstance(weight, Tensor) or weight.dim() != 1 or any(True for _ in module.children()):
                continue
            with suppress(InputError, *CODE_ERRORS):
                norms[module] = find_final_norm(module, len(weight))
    tokens = probe_tokens(decoder, 8)
    usual = decoder.hidden(tokens)
    try:
        with in_float64(decoder, norms):
            exact = decoder.hidden(tokens)
    except (InputError, *CODE_ERRORS):
        return None
    return norms if is_close(usual, exact.float(), decoder.rounding) else None


@contextmanager
def in_float64(decoder: Decoder, norms: Norms) -> Iterator[None]:
    """Let the layers compute in float64, with the weights that they have when they run.

    A linear module's weight is converted in blocks inside its product, which takes twice as long as in float32. Other
    parameters of a layer are converted while it runs. Hooks registered inside this context see float64. The decoder has
    float32 weights on a CPU; `norms` come from `float64_norms`.
    """
    inside = (module for layer in decoder.layers for module in layer.module.modules())
    with ExitStack() as stack:
        converted = stack.enter_context(_exact_forwards([*norms, *inside], norms))
        widened = stack.enter_context(ExitStack())  # restores weights on Ctrl-C inside a layer, when hooks do not run

        def widen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
            widened.enter_context(_widened(each for each in module.parameters() if each not in converted))
            return cast_floats(args, torch.float64), cast_floats(kwargs, torch.float64)

        def restore(*_: object) -> None:
            widened.close()

        handles = []
        for layer in decoder.layers:
            handles.append(layer.module.register_forward_pre_hook(widen, with_kwargs=True))
            # Before other hooks, because weights must be restored in the reverse order of their swaps.
            handles.append(layer.module.register_forward_hook(restore, prepend=True, always_call=True))
        stack.enter_context(hooks(*handles))
        yield


@contextmanager
def sublayer_in_float64(sublayer: Sublayer, norms: Norms) -> Iterator[None]:
    """Let one sublayer compute in float64, with its current weights, on arguments from an `in_float64` pass.

    `norms` are those of the pass. Several threads may do this for different sublayers.
    """
    tops = [module for part in sublayer.parts for module in part.chain]
    with (
        _exact_forwards((module for top in tops for module in top.modules()), norms) as converted,
        _widened(each for top in tops for each in top.parameters() if each not in converted),
    ):
        yield


@contextmanager
def _exact_forwards(modules: Iterable[nn.Module], norms: Norms) -> Iterator[set[Tensor]]:
    """Let norms and linear modules compute in float64; yield the weights that their products convert in blocks."""
    converted = set[Tensor]()
    with ExitStack() as stack:
        for module in modules:
            if "forward" in vars(module):  # dropping a branch that ends in a norm replaces the norm's forward
                continue
            if module in norms:
                stack.enter_context(other_forward(module, partial(_exact, module, norms[module])))
            elif type(module) is nn.Linear:
                stack.enter_context(other_forward(module, partial(_linear, module)))
                converted.add(module.weight)
        yield converted


def _widened(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[None]:
    """Temporarily convert float32 parameters to float64."""
    # Filtered lazily, because a tied parameter is float64 when it comes again.
    narrow = (parameter for parameter in parameters if parameter.dtype == torch.float32)
    return swapped_data(narrow, lambda parameter: parameter.data.double())


def cast_floats(value: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401 (any module's argument)
    """Return a call's arguments with their floating-point tensors converted to another dtype."""
    return recursively_apply(
        Tensor.to, value, dtype, test_type=lambda each: isinstance(each, Tensor) and each.is_floating_point()
    )


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    product = product64(x, module.weight)  # read at each call: a variant swaps weights
    return product if module.bias is None else product + module.bias


def _exact(module: nn.Module, norm: FinalNorm, states: Tensor) -> Tensor:
    current = cast(Any, module)  # read at each call: a variant may change gains
    return replace(norm, weight=current.weight, bias=getattr(current, "bias", None)).exact(states)
