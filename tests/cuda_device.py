"""CUDA devices that compute on the CPU and refuse what CUDA refuses.

A tensor on such a device is a wrapper subclass with a CPU tensor inside. Its device says `cuda:N`, so that the branches
for CUDA in the package and in its libraries are those that run. Operators run on the CPU tensors behind the checks of
CUDA: all operands on one device, no numpy array, a limit of memory. Copies between devices, and operators for whose
result the host has to wait, are recorded with the line of the package that called them.

Not imitated: concurrency, and the arithmetic of CUDA's kernels.
"""

import ctypes
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

_PACKAGE = "prunescope."
_CPU = torch.device("cpu")
_COPIES = {"copy_", "_to_copy", "to", "type_as", "_has_compatible_shallow_copy_type"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# The host needs a number or a shape that the device computes.
_WAITS = {
    *("item", "_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "nonzero_numpy", "argwhere"),
    *("masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc", "multinomial"),
    *("one_hot", "linalg_cholesky", "linalg_inv", "linalg_solve", "_linalg_check_errors", "linalg_lstsq"),
    *("linalg_eigh", "_linalg_eigh", "linalg_eigvalsh", "linalg_svd", "_linalg_svd", "linalg_svdvals", "linalg_pinv"),
}
# They take numbers of the host as operands, as element-wise operators do.
_TAKE_NUMBERS = {"where", "masked_fill", "masked_fill_", "fill_", "full_like", "index_put", "index_put_", "clamp"}


@dataclass(frozen=True)
class Event:
    """A copy or a wait.

    Attributes:
        kind: `to device`, `to host`, `between devices` or `wait`.
        size: bytes copied.
        place: innermost function of the package on the stack and its line, `module:function:line`.
    """

    kind: str
    size: int
    place: str


class _Allocation:
    """The bytes of one storage on a device, freed with the last tensor that views it."""

    def __init__(self, devices: "Devices", index: int, size: int) -> None:
        self._devices, self._index, self._size = devices, index, 0
        devices.add(index, size)
        self._size = size

    def __del__(self) -> None:
        self._devices.add(self._index, -self._size)


@dataclass
class Devices:
    """The devices of a test.

    Attributes:
        limits: bytes of memory of each.
        events: what was copied and waited for, in order.
        allocated: bytes in use on each.
        peak: largest `allocated` since the start or the last reset.
    """

    limits: list[int]
    events: list[Event] = field(default_factory=list)
    allocated: list[int] = field(init=False)
    peak: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.allocated, self.peak = [0] * len(self.limits), [0] * len(self.limits)
        self._lock = threading.RLock()
        self._allocations: weakref.WeakValueDictionary[tuple[int, int], _Allocation] = weakref.WeakValueDictionary()

    def add(self, index: int, size: int) -> None:
        """Allocate or free bytes."""
        with self._lock:
            after = self.allocated[index] + size
            if size > 0 and after > self.limits[index]:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes on cuda:{index}")
            self.allocated[index] = after
            self.peak[index] = max(self.peak[index], after)

    def allocation(self, values: Tensor, index: int) -> _Allocation:
        """Return the allocation of a tensor's storage, a new one for a new storage."""
        storage = values.untyped_storage()
        with self._lock:
            key = index, storage._cdata
            known = self._allocations.get(key)
            if known is None:
                known = self._allocations[key] = _Allocation(self, index, storage.nbytes())
            return known

    def record(self, kind: str, size: int = 0) -> None:
        """Record an event at the place that is now on the stack."""
        frame = sys._getframe(1)
        while frame.f_back is not None and not frame.f_globals.get("__name__", "").startswith(_PACKAGE):
            frame = frame.f_back
        module = frame.f_globals.get("__name__", "").removeprefix(_PACKAGE)
        self.events.append(Event(kind, size, f"{module}:{frame.f_code.co_name}:{frame.f_lineno}"))

    def kinds(self) -> Counter[str]:
        """Return the number of events of each kind."""
        return Counter(event.kind for event in self.events)


_active: list[Devices] = []


class CudaTensor(Tensor):
    """A tensor on a test device; `values` is the CPU tensor with its numbers."""

    values: Tensor
    allocation: _Allocation
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor, index: int) -> "CudaTensor":
        """Wrap a CPU tensor."""
        if not _active:
            raise RuntimeError("a tensor of a test device is used outside of `cuda_devices`")
        with torch.inference_mode(values.is_inference()):
            own = Tensor._make_wrapper_subclass(
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=torch.device("cuda", index),
            )
        own.values, own.allocation = values, _active[-1].allocation(values, index)
        return own

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        return _run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        """Return the address of the numbers."""
        return self.values.data_ptr()

    def untyped_storage(self) -> Any:
        """Return the storage of the numbers."""
        return self.values.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> "CudaTensor":
        """Copy the numbers."""
        memo[id(self)] = own = CudaTensor(self.values.clone(), self.device.index)
        return own

    def tolist(self) -> Any:
        """Copy to the host as one tensor."""
        return self.cpu().tolist()

    def __repr__(self, **_: object) -> str:
        """Return device and numbers."""
        return f"{self.device} {self.values!r}"


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Check the operands, run an operator on their CPU tensors, and wrap the results."""
    name, place = _about(func)
    target = _target(func, place, args, kwargs)
    tensors: list[Tensor] = []

    def plain(each: Tensor) -> Tensor:
        tensors.append(each)
        return each.values if isinstance(each, CudaTensor) else each

    plain_args, plain_kwargs = _on_cpu(place, _mapped(plain, args), _mapped(plain, kwargs))
    own = [each for each in tensors if isinstance(each, CudaTensor)]
    if name not in _COPIES:
        _check(func, name, args, kwargs, tensors)
    result = func(*plain_args, **plain_kwargs)
    if name == "copy_":
        _record_copy(args[1], args[0].device)
        return args[0]
    if target is None:
        target = own[0].device if own else _CPU
    elif tensors:
        _record_copy(tensors[0], target)
    wrappers = {id(each.values): each for each in own}

    def wrapped(each: Tensor) -> Tensor:
        if isinstance(each, CudaTensor):
            return each
        wrapper = wrappers.get(id(each))
        if wrapper is not None and wrapper.device == target:
            if (wrapper.size(), wrapper.stride()) == (each.size(), each.stride()):
                return wrapper
            if "out" not in kwargs:
                raise NotImplementedError(f"{func} changes the shape of its operand")
        if own and own[0].device != target:
            each = each.clone()  # a copy, also where the CPU's operator returned its operand
        return each if target.type == "cpu" else CudaTensor(each, target.index)

    return _mapped(wrapped, result)


def _mapped(change: Callable[[Tensor], Tensor], each: Any) -> Any:
    """Apply a function to the tensors in an argument or a result."""
    if isinstance(each, Tensor):
        return change(each)
    if isinstance(each, dict):
        return {key: _mapped(change, value) for key, value in each.items()}
    if type(each) in (tuple, list):
        return type(each)(_mapped(change, value) for value in each)
    return each


@cache
def _written(func: Any) -> tuple[tuple[int, Any], ...]:
    """Return the places of the arguments that an operator writes."""
    arguments = enumerate(func._schema.arguments)
    return tuple((place, each) for place, each in arguments if each.alias_info is not None and each.alias_info.is_write)


@cache
def _about(func: Any) -> tuple[str, tuple[int, bool] | None]:
    """Return an operator's name; and the place of its argument `device`, with whether it is for keywords alone."""
    places = (
        (position, argument.kwarg_only)
        for position, argument in enumerate(func._schema.arguments)
        if argument.name == "device"
    )
    return func._schema.name.partition("::")[2], next(places, None)


def _check(func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
    """Raise where CUDA does, and record what the host waits for.

    As on CUDA, a CPU tensor of one number may be an operand, and CPU tensors may be indices.
    """
    message = f"Expected all tensors to be on the same device: {func} on {', '.join(str(t.device) for t in tensors)}"
    if len({each.device for each in tensors if isinstance(each, CudaTensor)}) > 1:
        raise RuntimeError(message)
    hosts = [each for each in tensors if not isinstance(each, CudaTensor)]
    if name in _INDEXING:
        indices = [each for each in args[1] if each is not None]
        hosts = [each for each in hosts if not any(each is index for index in indices)]
        if not isinstance(args[0], CudaTensor):
            raise RuntimeError(message)
        for index in indices:
            if not isinstance(index, CudaTensor):
                _active[-1].record("to device", index.nbytes)
        is_masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        # A mask that gets one number fills; any other needs the number of its true values.
        if is_masked and (name == "index" or args[2].dim()):
            _active[-1].record("wait")
    is_repeated = str(func) in {"aten.repeat_interleave.self_Tensor", "aten.repeat_interleave.Tensor"}
    if name in _WAITS or str(func) == "aten.where.default" or (is_repeated and kwargs.get("output_size") is None):
        _active[-1].record("wait")
    takes_numbers = torch.Tag.pointwise in func.tags or name in _TAKE_NUMBERS | _INDEXING
    if any(each.dim() or not takes_numbers for each in hosts):
        raise RuntimeError(message)
    written = (kwargs.get(each.name, args[place] if place < len(args) else None) for place, each in _written(func))
    if any(each is host for each in written for host in hosts):
        raise RuntimeError(message)
    if (generator := kwargs.get("generator")) is not None and generator.device.type == "cpu":
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {func}")


def _record_copy(source: object, target: torch.device) -> None:
    if isinstance(source, Tensor) and source.device != target:
        kinds = {("cpu", "cuda"): "to device", ("cuda", "cpu"): "to host"}
        _active[-1].record(kinds.get((source.device.type, target.type), "between devices"), source.nbytes)


def _target(func: Any, place: tuple[int, bool] | None, args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that is asked of an operator's result; None where that of its operands is."""
    if func is torch.ops.aten.to.other:
        return args[1].device
    if place is None:
        return None
    position, by_keyword = place
    device = kwargs.get("device") if by_keyword or position >= len(args) else args[position]
    return None if device is None else torch.device(device)


def _on_cpu(place: tuple[int, bool] | None, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Ask for the CPU instead of any device."""
    if "pin_memory" in kwargs:
        kwargs = kwargs | {"pin_memory": False}
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": _CPU}
    if place is not None and not place[1] and place[0] < len(args):
        args = (*args[: place[0]], _CPU, *args[place[0] + 1 :])
    return args, kwargs


def _new(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def allocate(*shape: Any, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
        return CudaTensor(make(*shape, dtype=dtype), torch.device(device).index or 0)

    return allocate


def _registered() -> torch.library.Library:
    """Let torch allocate on CUDA devices, and give it a guard that switches nothing."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _new(_plain_empty), "CUDA")
    library.impl("empty_strided", _new(torch.empty_strided), "CUDA")
    # Lists of numbers become tensors in a part of torch that ignores wrappers.
    library.impl("copy_", lambda *args: _run(torch.ops.aten.copy_.default, args, {}), "CUDA")
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 2).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    cpu, cuda = 0, 1
    guards[cuda] = guards[cpu]
    return library


_plain_data, _plain_empty = Tensor.data, torch.empty


def _get_data(self: Tensor) -> Tensor:
    if isinstance(self, CudaTensor):
        return CudaTensor(_plain_data.__get__(self.values), self.device.index)
    return _plain_data.__get__(self)


def _set_data(self: Tensor, new: Tensor) -> None:
    if isinstance(self, CudaTensor) == isinstance(new, CudaTensor):
        _plain_data.__set__(self, new)
        if isinstance(self, CudaTensor):
            self.values, self.allocation = new.values, new.allocation
        return
    kept = {key: value for key, value in vars(self).items() if key not in {"values", "allocation"}}
    torch.utils.swap_tensors(self, nn.Parameter(new.detach(), requires_grad=self.requires_grad))
    vars(self).update(kept)


def _unpinned(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
    return _plain_empty(*shape, **options)


class _Nothing:
    """A stream, an event, or the context of a device, of devices that compute at once: all is done."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_: object) -> None: ...

    def _done(self, *_: object, **__: object) -> None: ...

    record = synchronize = wait = wait_event = wait_stream = _done

    def query(self) -> bool:
        """Return whether all work is done."""
        return True


@contextmanager
def cuda_devices(*limits: int) -> Iterator[Devices]:
    """Let torch see CUDA devices of so many bytes each, and no others."""
    if not _LIBRARY:
        _LIBRARY.append(_registered())
    devices = Devices(list(limits))

    def index_of(device: object = None) -> int:
        return device if isinstance(device, int) else torch.device(str(device or "cuda:0")).index or 0

    def reset(device: object = None) -> None:
        devices.peak[index_of(device)] = devices.allocated[index_of(device)]

    def info(device: object = None) -> tuple[int, int]:
        limit = limits[index_of(device)]
        return limit - devices.allocated[index_of(device)], limit

    answers: dict[str, object] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: len(limits),
        "current_device": lambda: 0,
        # Too old for Triton, whose interpreter needs a process of its own.
        "get_device_capability": lambda device=None: (5, 0),
        "get_device_name": lambda device=None: f"test device {index_of(device)}",
        "mem_get_info": info,
        "memory_allocated": lambda device=None: devices.allocated[index_of(device)],
        "max_memory_allocated": lambda device=None: devices.peak[index_of(device)],
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: devices.record("wait"),
        **dict.fromkeys(("Stream", "Event", "stream", "current_stream", "device"), _Nothing),
    }
    # torch keeps the functions that `with torch.device` replaces from its first use on: they must be its own.
    _device_constructors()
    with pytest.MonkeyPatch.context() as patch:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        # It allocates what the model will take, less 1.2 GiB of every device: a negative number on small ones.
        patch.setattr("transformers.modeling_utils.caching_allocator_warmup", lambda *_: None)
        patch.setattr(torch, "empty", _unpinned)
        patch.setattr(Tensor, "data", property(_get_data, _set_data))
        torch.__future__.set_swap_module_params_on_conversion(True)
        _active.append(devices)
        try:
            yield devices
        finally:
            _active.pop()
            torch.__future__.set_swap_module_params_on_conversion(False)


# torch takes a kernel once; this keeps it.
_LIBRARY: list[torch.library.Library] = []
