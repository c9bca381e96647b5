"""Weights that stay on disk, in memory or on another device, and are loaded while their layer runs.

Code that reads or replaces a layer's numbers must do so inside `on_device`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

Read = Callable[[], Tensor]
_KEY = "prunescope_offload"


class OffloadedLayer:
    """A layer's forward that loads its weights, moves its inputs to them, and moves its output back.

    Hooks on the layer see tensors on the model's device; hooks on modules inside it see tensors on the layer's device.
    Until the layer is proved, it computes on the model's `device`, because proofs compare tensors of different layers.
    After that it computes on `final_device`. `is_streamed` says whether its weights are elsewhere until it runs.
    """

    def __init__(
        self, layer: nn.Module, final_device: torch.device, device: torch.device, *, is_streamed: bool
    ) -> None:
        self.is_streamed = is_streamed
        self._layer, self._forward = layer, layer.forward
        self.final_device, self.device, self._model_device = final_device, device, device
        cast(Any, layer).forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (any layer's signature)
        """Run the layer."""
        with on_device(self._layer):
            if self.device == self._model_device:
                return self._forward(*args, **kwargs)
            own_args, own_kwargs = send_to_device((args, kwargs), self.device)
            return send_to_device(self._forward(*own_args, **own_kwargs), self._model_device)


class _OffloadedTensor:
    """The stored numbers of one parameter or buffer, and a count of the contexts that use them now."""

    def __init__(self, layer: OffloadedLayer, read: Read | None) -> None:
        self._layer, self._read = layer, read
        self._lock, self._users = threading.Lock(), 0
        self._before: Tensor | None = None

    def enter(self, tensor: Tensor) -> None:
        """Load the numbers; weights that a variant swapped into the parameter are only moved to the device."""
        with self._lock:
            if not self._users:
                self._before = tensor.data
                tensor.data = self.data_of(tensor)
            self._users += 1

    def leave(self, tensor: Tensor) -> None:
        """Restore the tensor's stored data when the last user leaves."""
        with self._lock:
            self._users -= 1
            if not self._users:
                tensor.data, self._before = cast(Tensor, self._before), None

    def data_of(self, tensor: Tensor) -> Tensor:
        """Return the numbers in the parameter's current dtype, on its layer's device."""
        data = tensor.data
        if self._read is not None and _is_placeholder(data):
            data = self._read().to(data.dtype)
        return data.to(self._layer.device)


def finalize_placement(layers: Iterable[nn.Module]) -> bool:
    """Let layers compute on their final devices, and return whether any layer's weights are streamed."""
    offloaded = [layer.forward for layer in layers if isinstance(layer.forward, OffloadedLayer)]
    for forward in offloaded:
        forward.device = forward.final_device
    return any(forward.is_streamed for forward in offloaded)


def offload(tensor: Tensor, layer: OffloadedLayer, read: Read | None = None) -> None:
    """Let `on_device` load a layer's parameter or buffer; `read` reads it from disk, None if it holds its numbers."""
    vars(tensor)[_KEY] = _OffloadedTensor(layer, read)


def placeholder(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return data that stands for a parameter on disk: its shape and dtype, and NaN, which shows if it is ever used."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)


def retyped(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor's data in another dtype; a placeholder of that dtype makes loading convert the data on disk."""
    return placeholder(tensor.shape, dtype, tensor.device) if _is_placeholder(tensor.data) else tensor.data.to(dtype)


@contextmanager
def on_device(*owners: nn.Module | Tensor) -> Iterator[None]:
    """Temporarily load parameters and buffers, or all those of some modules, to the device where they are used.

    Contexts may be nested and entered by several threads; the last one to leave unloads the numbers.
    """
    with ExitStack() as stack:
        for tensor in _tensors(owners):
            offloaded = vars(tensor).get(_KEY)
            if offloaded is not None:
                offloaded.enter(tensor)
                stack.callback(offloaded.leave, tensor)
        yield


@contextmanager
def swapped_data(tensors: Iterable[Tensor], new: Callable[[Any], Tensor]) -> Iterator[None]:
    """Temporarily replace each parameter's data by `new(parameter)`; a parameter may occur several times."""
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for tensor in tensors:
            before.append((tensor, tensor.data))
            tensor.data = new(tensor)
        yield
    finally:
        for tensor, data in reversed(before):
            tensor.data = data


def data_of(tensor: Tensor) -> Tensor:
    """Return the numbers of a parameter for reading, from disk if they are there."""
    offloaded = vars(tensor).get(_KEY)
    return tensor.data if offloaded is None else cast(Tensor, offloaded.data_of(tensor))


def _tensors(owners: Iterable[nn.Module | Tensor]) -> Iterator[Tensor]:
    for owner in owners:
        if isinstance(owner, Tensor):
            yield owner
        else:
            yield from owner.parameters()
            yield from owner.buffers()


def _is_placeholder(data: Tensor) -> bool:
    return data.numel() > 1 and data.untyped_storage().nbytes() == data.itemsize
