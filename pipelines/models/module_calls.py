"""Reading the calls of modules whose signatures are not known: the state, the first output, the cache.

Which module is what is found in `structure.py`.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def first_tensor(value: object) -> Tensor:
    """The tensor of a module's output: itself, or the first of a tuple."""
    return cast(Tensor, value[0] if isinstance(value, (tuple, list)) else value)


def with_first(output: object, value: Tensor) -> object:
    """The output with another first tensor."""
    return (value, *output[1:]) if isinstance(output, (tuple, list)) else value


def state_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The state that a module was called on: its first tensor, positional or `hidden_states`; None without one."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    given = kwargs.get("hidden_states")
    if isinstance(given, Tensor):
        return given
    return next((value for value in kwargs.values() if isinstance(value, Tensor)), None)


def stream_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream that a layer was called on; discovery has seen that there is one."""
    return cast(Tensor, state_argument(args, kwargs))


def call_with_state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> Tensor:
    """Calls a module as it was called before, on another state."""
    given = state_argument(args, kwargs)
    if args and args[0] is given:
        return first_tensor(module(state, *args[1:], **kwargs))
    return first_tensor(module(*args, **{key: state if value is given else value for key, value in kwargs.items()}))


def with_cache(call: Arguments, cache: Cache) -> Arguments:
    """The same arguments with another cache in place of the one that was passed, if there was one."""
    args, kwargs = call
    return (
        tuple(cache if isinstance(value, Cache) else value for value in args),
        {key: cache if isinstance(value, Cache) else value for key, value in kwargs.items()},
    )


def without_cache(model: nn.Module) -> dict[str, Any]:
    """Keywords with which a model keeps no cache; none where it takes none."""
    parameters = inspect.signature(model.forward).parameters
    takes = "use_cache" in parameters or any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return {"use_cache": False} if takes else {}


@contextmanager
def hooks(*registered: RemovableHandle) -> Iterator[None]:
    """Removes hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


@contextmanager
def other_forward(module: nn.Module, instead: Callable[..., object]) -> Iterator[None]:
    """Another forward in place of a module's for a while; one that somebody else had put there comes back."""
    before = vars(module).get("forward")
    cast(Any, module).forward = instead
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            cast(Any, module).forward = before
