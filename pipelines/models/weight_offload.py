"""Weights that come to their device for their turn: they rest on disk, in memory or on another device until then.

Whoever reads or replaces numbers of a layer does so inside `on_device`. Where layers rest is `placement.py`'s.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

Read = Callable[[], Tensor]
_KEY = "prunescope_rest"


class OffloadedLayer:
    """A layer's forward: its weights come, what it is given follows them, and what it returns goes back.

    Hooks on the layer see tensors on the model's own device, those on modules inside it tensors where it computes.

    Args:
        layer: whose forward it takes the place of.
        home: where it computes once it is proved.
        device: the model's own device, where it computes until then: proofs compare tensors of different layers.
        comes: whether its weights lie elsewhere while it does not run.
    """

    def __init__(self, layer: nn.Module, home: torch.device, device: torch.device, *, comes: bool) -> None:
        self.comes = comes
        self._layer, self._forward = layer, layer.forward
        self._home, self._device = home, device
        self.place = device
        cast(Any, layer).forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (any layer's signature)
        """Runs the layer."""
        with on_device(self._layer):
            if self.place == self._device:
                return self._forward(*args, **kwargs)
            own_args, own_kwargs = send_to_device((args, kwargs), self.place)
            return send_to_device(self._forward(*own_args, **own_kwargs), self._device)

    def settle(self) -> bool:
        """From now on it computes at home; whether its weights come for it."""
        self.place = self._home
        return self.comes


class _Rest:
    """Where the numbers of one parameter or buffer are while nobody needs them, and who needs them now."""

    def __init__(self, turn: OffloadedLayer, read: Read | None) -> None:
        self._turn, self._read = turn, read
        self._lock, self._users = threading.Lock(), 0
        self._before: Tensor | None = None

    def enter(self, tensor: Tensor) -> None:
        """Brings the numbers; other weights that somebody gave the parameter meanwhile only come to the device."""
        with self._lock:
            if not self._users:
                self._before = tensor.data
                tensor.data = self.data_of(tensor)
            self._users += 1

    def leave(self, tensor: Tensor) -> None:
        """Puts back what was there, once for every `enter`."""
        with self._lock:
            self._users -= 1
            if not self._users:
                tensor.data, self._before = cast(Tensor, self._before), None

    def data_of(self, tensor: Tensor) -> Tensor:
        """The numbers in the type that the parameter has now, where its layer computes."""
        data = tensor.data
        if self._read is not None and _is_nothing(data):
            data = self._read().to(data.dtype)
        return data.to(self._turn.place)


def finalize_placement(layers: Iterable[nn.Module]) -> bool:
    """Lets layers compute at home from now on; whether weights of any come for its turn."""
    come = [layer.forward.settle() for layer in layers if isinstance(layer.forward, OffloadedLayer)]
    return any(come)


def offload(tensor: Tensor, turn: OffloadedLayer, read: Read | None = None) -> None:
    """Lets a parameter or buffer of a layer come for its turns.

    Args:
        tensor: which.
        turn: of its layer.
        read: reads its numbers from where they rest; None where they rest in the tensor itself.
    """
    vars(tensor)[_KEY] = _Rest(turn, read)


def placeholder(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What stands in a parameter that rests on disk: its shape and type, and NaN, so that a slip cannot go unseen."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)


def retyped(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Its numbers in another type; of a parameter that rests on disk what stands for them, which then come in it."""
    return placeholder(tensor.shape, dtype, tensor.device) if _is_nothing(tensor.data) else tensor.data.to(dtype)


@contextmanager
def on_device(*wanted: nn.Module | Tensor) -> Iterator[None]:
    """Parameters and buffers, or all of some modules, are on the device where they are used for a while.

    May be nested and called by several threads; the last one lets them go.
    """
    with ExitStack() as stack:
        for tensor in _tensors(wanted):
            rest = vars(tensor).get(_KEY)
            if rest is not None:
                rest.enter(tensor)
                stack.callback(rest.leave, tensor)
        yield


def data_of(tensor: Tensor) -> Tensor:
    """The numbers of a parameter, to be read; from disk if they rest there."""
    rest = vars(tensor).get(_KEY)
    return tensor.data if rest is None else cast(Tensor, rest.data_of(tensor))


def _tensors(wanted: Iterable[nn.Module | Tensor]) -> Iterator[Tensor]:
    for each in wanted:
        if isinstance(each, Tensor):
            yield each
        else:
            yield from each.parameters()
            yield from each.buffers()


def _is_nothing(data: Tensor) -> bool:
    return data.numel() > 1 and data.untyped_storage().nbytes() == data.itemsize
