"""Context managers that temporarily apply a variant to a decoder and then restore the dense weights unchanged."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prunescope.pipelines.core.device import available_bytes
from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.module_calls import entered, hooks, other_forward
from prunescope.pipelines.models.sublayer import Sublayer, watch_all
from prunescope.pipelines.models.weight_offload import data_of, on_device, swapped_data
from prunescope.pipelines.pruning.calibration.layerwise_forward import cast_parameters
from prunescope.pipelines.pruning.variant import Variant

# Changed weights up to this size, or up to half of a GPU's free memory, are kept together. Those of larger variants are
# built layer by layer, whenever a layer runs.
MAX_CHANGED_BYTES = 4 * 2**30


def changed_limit(device: str, free: int | None) -> int:
    """Return how many bytes of changed weights are kept together on a device with `free` bytes."""
    return max(MAX_CHANGED_BYTES, free // 2) if device.startswith("cuda") and free else MAX_CHANGED_BYTES


@contextmanager
def swap_weights(sublayer: Sublayer, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Temporarily replace weights of a sublayer by those that `Variant.weights` returns."""
    with sublayer.on_device():
        swapped: dict[Tensor, Tensor] = {}
        for name, matrix in sublayer.matrices.items():
            if name in weights and matrix.expert is None:
                swapped[matrix.parameter] = weights[name]
            elif name in weights:  # a stack of experts is copied once, and each expert is written into the copy
                if matrix.parameter not in swapped:
                    swapped[matrix.parameter] = matrix.parameter.data.clone()
                swapped[matrix.parameter][matrix.expert] = weights[name]
        others = {name: value for name, value in weights.items() if name not in sublayer.matrices}
        del weights  # frees the experts, which are now in the copy
        with swapped_data(swapped, swapped.__getitem__), _swap_parameters(sublayer.modules, others):
            yield


@contextmanager
def _swap_parameter(module: nn.Module, key: str, value: Tensor) -> Iterator[None]:
    """Temporarily replace a parameter of a module, or add it if it is None (a bias)."""
    parameter = getattr(module, key)
    before = None if parameter is None else parameter.data
    if before is None:
        like = data_of(next(module.parameters()))
        setattr(module, key, nn.Parameter(value.to(like), requires_grad=False))
    else:
        parameter.data = value.to(before)
    try:
        yield
    finally:
        if before is None:
            setattr(module, key, None)
        else:
            parameter.data = before


@contextmanager
def apply_variant(
    decoder: Decoder, variant: Variant, max_bytes: int | None = None, *, skips: bool = True
) -> Iterator[None]:
    """Temporarily let the decoder compute as the variant: with changed weights and without dropped sublayers.

    Hooks on its modules see the shapes of the dense model, and bfloat16 under the noise `bfloat16`.

    Changed weights up to `max_bytes` (None: `changed_limit`) are kept in memory together. `skips` is passed to
    `Decoder.without`; it must be False if hooks must also see the modules of dropped sublayers.
    """
    if max_bytes is None:
        # Offloaded layers need memory when they run. After memory ran out (`split` above 1), batches need what is free.
        device, has_room = str(decoder.device), decoder.memory is None and decoder.split == 1
        max_bytes = changed_limit(device, available_bytes(device) if has_room else None)
    changed = sum(matrix.size for name, matrix in decoder.matrices.items() if name in variant.changes)
    with ExitStack() as stack:
        if not decoder.is_streamed and changed * decoder.dtype.itemsize <= max_bytes:
            stack.enter_context(_swapped(decoder.sublayers, variant))
        else:
            stack.enter_context(_layer_by_layer(decoder, variant))
        substitutes = {label: each.to(decoder.device) for label, each in variant.substitutes.items()}
        stack.enter_context(decoder.without(variant.dropped, skips=skips, substitutes=substitutes))
        stack.enter_context(swap_outer_parameters(decoder, variant))
        stack.enter_context(  # all weights below the head
            _noise(variant.noise, decoder.trunk.parameters(), decoder.sublayers, is_streamed=decoder.is_streamed)
        )
        yield


@contextmanager
def apply_to_layer(layer: Layer, variant: Variant) -> Iterator[None]:
    """Temporarily let the sublayers of one layer compute as in the variant."""
    dropped = (
        sublayer.dropped(variant.substitutes.get(sublayer.label))
        for sublayer in layer.sublayers
        if sublayer.label in variant.dropped
    )
    with _swapped(layer.sublayers, variant), entered(dropped):
        yield


def _swapped(sublayers: Iterable[Sublayer], variant: Variant) -> AbstractContextManager[None]:
    return entered(swap_weights(sublayer, variant.weights(sublayer)) for sublayer in sublayers)


def swap_outer_parameters(decoder: Decoder, variant: Variant) -> AbstractContextManager[None]:
    """Temporarily set a variant's parameters outside the sublayers: gains of norms, embeddings, learned positions."""
    inside = {name for sublayer in decoder.sublayers for name in sublayer.modules}
    names = {name.rpartition(".")[0] for name in variant.parameters} - inside
    return _swap_parameters({name: decoder.model.get_submodule(name) for name in names}, variant.parameters)


def _swap_parameters(modules: Mapping[str, nn.Module], values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Temporarily set those of some parameters, by their name in the model, that are in some modules."""
    places = ((*name.rpartition(".")[::2], value) for name, value in values.items())
    return entered(_swap_parameter(modules[name], key, value) for name, key, value in places if name in modules)


def contributing(decoder: Decoder, sublayers: Iterable[Sublayer], tokens: Int[Tensor, "batch length"]) -> set[str]:
    """Return the labels of the sublayers that add anything but zeros to the stream on some tokens."""
    labels: set[str] = set()

    def observe(label: str, added: Tensor) -> None:
        if bool(added.any()):
            labels.add(label)

    with hooks(*watch_all(sublayers, observe)):
        decoder.hidden(tokens)
    return labels


def _layer_by_layer(decoder: Decoder, variant: Variant) -> AbstractContextManager[None]:
    """Build changed weights when a layer begins and free them when it ends."""

    def run(layer: Layer, forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        with on_device(layer.module), _swapped(layer.sublayers, variant):
            return forward(*args, **kwargs)

    layers = decoder.layers
    return entered(other_forward(each.module, partial(run, each, each.module.forward)) for each in layers)


def sublayer_noise(sublayer: Sublayer, kind: str | None) -> AbstractContextManager[None]:
    """Temporarily let one sublayer, loaded to its device, compute with the rounding of a noise variant.

    Several threads may do this for different sublayers. `kind` None changes nothing.
    """
    chains = (module for part in sublayer.parts for module in part.chain)
    return _noise(kind, (each for module in chains for each in module.parameters()), (sublayer,), is_streamed=False)


def _noise(
    kind: str | None, parameters: Iterable[nn.Parameter], sublayers: Iterable[Sublayer], *, is_streamed: bool
) -> AbstractContextManager[None]:
    match kind:
        case "bfloat16":
            return cast_parameters(parameters, torch.bfloat16)
        case "batch":
            return _reversed_sums(sublayers, is_streamed=is_streamed)
        case None:
            return nullcontext()
        case _:
            raise ComputationError(f"a variant of noise {kind!r}, which this version does not know")


@contextmanager
def _reversed_sums(sublayers: Iterable[Sublayer], *, is_streamed: bool) -> Iterator[None]:
    """Let every linear module of the sublayers sum the terms of its products from the last to the first.

    Another batch shape changes the rounding of a sum as another order of its terms does. Adding rows to the batch is
    not enough: from some number of rows on, a kernel computes each row in the same way, and the noise would be zero.
    Attention's own products and stacked experts keep their order.
    """
    linears = [
        module
        for sublayer in sublayers
        for mixer in sublayer.mixers
        for module in mixer.modules()
        if type(module) in {nn.Linear, Conv1D}
    ]
    before: dict[nn.Module, Tensor] = {}

    def flipped(module: nn.Module) -> Tensor:
        return module.get_parameter("weight").data.flip(0 if isinstance(module, Conv1D) else 1)

    # Flipping the weights takes longer than the products of a few tokens, so flipped ones are cached.
    if not is_streamed and sum(linear.get_parameter("weight").nbytes for linear in linears) <= MAX_CHANGED_BYTES:
        flipped = cache(flipped)

    def reverse(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (rows,), weight = args, module.get_parameter("weight")
        other = flipped(module)
        before[module], weight.data = weight.data, other
        return (rows.flip(-1),)

    def restore(module: nn.Module, args: object, output: object) -> None:  # noqa: ARG001
        if module in before:
            module.get_parameter("weight").data = before.pop(module)

    # Hooks keep the module's own forward, so both orders run on the same kernel.
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
