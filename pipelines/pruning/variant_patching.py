"""How a decoder wears a variant for a while: weights swapped in, sublayers left out, noise; the dense ones come back.

What a variant is stands in `variant.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.models.sublayer import Sublayer
from prunescope.pipelines.models.weight_offload import data_of, on_device
from prunescope.pipelines.pruning.calibration.layerwise_forward import cast_parameters
from prunescope.pipelines.pruning.variant import Variant

# Up to so many bytes of changed weights lie in memory beside the dense ones; larger variants have them made for one
# layer at a time, each time that it runs.
MOST_HELD = 4 * 2**30


@contextmanager
def swap_weights(sublayers: Sequence[Sublayer], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Puts other weights into the sublayers for a while; the dense ones come back untouched.

    Args:
        sublayers: where.
        weights: as `Variant.weights` gives them: matrices by name in their own layout, other parameters by theirs.
    """
    before: dict[Tensor, Tensor] = {}
    with ExitStack() as stack:
        for sublayer in sublayers:
            stack.enter_context(sublayer.on_device())
        stack.callback(_put_back, before)
        for sublayer in sublayers:
            others = [name for name in weights if name not in sublayer.matrices]
            for name, matrix in sublayer.matrices.items():
                if name not in weights:
                    continue
                parameter, is_first = matrix.parameter, matrix.parameter not in before
                before.setdefault(parameter, parameter.data)
                if matrix.expert is None:
                    parameter.data = weights[name]
                    continue
                if is_first:  # a stack is copied once; its experts are written into the copy
                    parameter.data = parameter.data.clone()
                parameter.data[matrix.expert] = weights[name]
            for name in others:
                module = sublayer.modules.get(name.rpartition(".")[0])
                if module is not None:
                    stack.enter_context(_replaced(module, name.rpartition(".")[2], weights[name]))
        del weights  # experts are in the copy now
        yield


def _put_back(before: dict[Tensor, Tensor]) -> None:
    for parameter, weight in before.items():
        parameter.data = weight


@contextmanager
def _replaced(module: nn.Module, key: str, value: Tensor) -> Iterator[None]:
    """Another parameter of a module for a while, one that it does not have otherwise too (a bias that is None)."""
    parameter = getattr(module, key)
    if parameter is None:
        like = data_of(next(module.parameters()))
        setattr(module, key, nn.Parameter(value.to(like), requires_grad=False))
        try:
            yield
        finally:
            setattr(module, key, None)
        return
    before = parameter.data
    parameter.data = value.to(before)
    try:
        yield
    finally:
        parameter.data = before


@contextmanager
def apply_variant(
    decoder: Decoder, variant: Variant, most_held: int | None = None, *, skips: bool = True
) -> Iterator[None]:
    """The decoder computes as the variant for a while: changed weights swapped in, dropped sublayers left out.

    Hooks on its modules see the shapes of the dense model whatever the variant; in bfloat16 they see that type.

    Args:
        decoder: the dense model.
        variant: what it is for a while.
        most_held: up to so many bytes of changed weights lie in memory together; None is MOST_HELD.
        skips: as in `Decoder.without`; False where hooks must see the modules of dropped sublayers, too.
    """
    most_held = MOST_HELD if most_held is None else most_held
    changed = [matrix.size for name, matrix in decoder.matrices.items() if name in variant.changes]
    with ExitStack() as stack:
        if not decoder.is_streamed and sum(changed) * decoder.dtype.itemsize <= most_held:
            for sublayer in decoder.sublayers:
                stack.enter_context(swap_weights([sublayer], variant.weights(sublayer)))
        else:
            stack.enter_context(_layer_by_layer(decoder, variant))
        stack.enter_context(decoder.without(variant.dropped, skips=skips))
        stack.enter_context(outside(decoder, variant))
        stack.enter_context(_noisy(decoder, variant.noise))
        yield


@contextmanager
def outside(decoder: Decoder, variant: Variant) -> Iterator[None]:
    """A variant's parameters outside the sublayers for a while: gains of norms, embeddings, learned positions."""
    owned = {name for sublayer in decoder.sublayers for name in sublayer.modules}
    with ExitStack() as stack:
        for name, value in variant.parameters.items():
            module, _, key = name.rpartition(".")
            if module not in owned:
                stack.enter_context(_replaced(decoder.model.get_submodule(module), key, value))
        yield


@contextmanager
def _layer_by_layer(decoder: Decoder, variant: Variant) -> Iterator[None]:
    """Changed weights are made when a layer begins and gone when it ends, so that only one layer's are in memory."""
    worn = ExitStack()

    def begin(layer: Layer) -> Callable[..., None]:
        def hook(module: nn.Module, args: object) -> None:  # noqa: ARG001
            worn.enter_context(on_device(module))
            for sublayer in (layer.attn, layer.mlp):
                worn.enter_context(swap_weights([sublayer], variant.weights(sublayer)))

        return hook

    def end(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
        worn.close()

    handles = [
        handle
        for layer in decoder.layers
        for handle in (
            layer.module.register_forward_pre_hook(begin(layer)),
            layer.module.register_forward_hook(end, always_call=True),
        )
    ]
    with worn, hooks(*handles):
        yield


@contextmanager
def _noisy(decoder: Decoder, kind: str | None) -> Iterator[None]:
    """The dense model computed differently for a while."""
    match kind:
        case "bfloat16":
            with cast_parameters(decoder.trunk.parameters(), torch.bfloat16):  # all weights below the head
                yield
        case "batch":
            with _in_reverse_order(decoder):
                yield
        case None:
            yield
        case _:
            raise ComputationError(f"a variant of noise {kind!r}, which this version does not know")


@contextmanager
def _in_reverse_order(decoder: Decoder) -> Iterator[None]:
    """Every product of a linear module in the layers adds up its terms from the last to the first.

    Another batch shape does to a sum what another order does: other rounding. More rows alone will not do, because a
    kernel treats each row alike from some number of rows on, and what it then leaves is no floor but zero. Attention's
    own products and stacked experts keep their order.
    """
    linears = [
        module
        for sublayer in decoder.sublayers
        for mixer in sublayer.mixers
        for module in mixer.modules()
        if type(module) in {nn.Linear, Conv1D}
    ]
    before: dict[nn.Module, Tensor] = {}

    def flipped(module: nn.Module) -> Tensor:
        return module.get_parameter("weight").data.flip(0 if isinstance(module, Conv1D) else 1)

    # A copy of the weights takes longer than the products of a few tokens.
    if not decoder.is_streamed and sum(linear.get_parameter("weight").nbytes for linear in linears) <= MOST_HELD:
        flipped = cache(flipped)

    def reverse(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (rows,), weight = args, module.get_parameter("weight")
        other = flipped(module)
        before[module], weight.data = weight.data, other
        return (rows.flip(-1),)

    def restore(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
        if module in before:
            module.get_parameter("weight").data = before.pop(module)

    # Hooks, not another forward: whatever kernel the dense run multiplies with is the one that sees the other order.
    handles = [
        handle
        for linear in linears
        for handle in (
            linear.register_forward_pre_hook(reverse),
            linear.register_forward_hook(restore, prepend=True, always_call=True),
        )
    ]
    with hooks(*handles):
        yield
