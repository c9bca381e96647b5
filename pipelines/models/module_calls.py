"""Access to the state, first output and cache in calls of any module, and temporary hooks and forwards."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from prunescope.pipelines.metrics.cpu_matmul import product

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
# Errors of architectures whose own code does not run with a mask; with a cache or in another dtype.
MASK_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)
CODE_ERRORS = (*MASK_ERRORS, AttributeError, KeyError)


def first_tensor(output: object) -> Tensor:
    """Return a module's output if it is a tensor, or the first value of a tuple."""
    return cast(Tensor, output[0] if isinstance(output, (tuple, list)) else output)


def with_first(output: object, value: Tensor) -> object:
    """Return a module's output with its first tensor replaced."""
    return (value, *output[1:]) if isinstance(output, (tuple, list)) else value


def state_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the state that a module is called on (its first tensor, positional or `hidden_states`), or None."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    state = kwargs.get("hidden_states")
    if isinstance(state, Tensor):
        return state
    return next((value for value in kwargs.values() if isinstance(value, Tensor)), None)


def stream_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the residual stream that a layer is called on; discovery has proved that it exists."""
    return cast(Tensor, state_argument(args, kwargs))


def watch_stream(module: nn.Module, observe: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `observe` with the stream at every call of a module; the caller removes the hook."""
    return module.register_forward_pre_hook(lambda _, args, kwargs: observe(stream_of(args, kwargs)), with_kwargs=True)


def with_state(args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> Arguments:
    """Return a call's arguments with the state replaced."""
    recorded = state_argument(args, kwargs)
    if args and args[0] is recorded:
        return (state, *args[1:]), kwargs
    return args, {key: state if value is recorded else value for key, value in kwargs.items()}


def call_with_state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> Tensor:
    """Call a module with recorded arguments but another state, and return its first tensor."""
    args, kwargs = with_state(args, kwargs, state)
    return first_tensor(module(*args, **kwargs))


def with_cache(call: Arguments, cache: Cache) -> Arguments:
    """Return a call's arguments with their cache, if any, replaced."""
    args, kwargs = call
    return (
        tuple(cache if isinstance(value, Cache) else value for value in args),
        {key: cache if isinstance(value, Cache) else value for key, value in kwargs.items()},
    )


def without_cache(model: nn.Module) -> dict[str, Any]:
    """Return the keywords that stop a model from keeping a cache; empty if its forward has no such keyword."""
    parameters = inspect.signature(model.forward).parameters
    takes = "use_cache" in parameters or any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return {"use_cache": False} if takes else {}


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return a model's logits for tokens, (batch, tokens), or the last hidden states of a model without an LM head."""
    output = model(input_ids=tokens, **without_cache(model))
    return first_tensor(output.logits if "logits" in output else output.last_hidden_state)


@contextmanager
def entered(contexts: Iterable[AbstractContextManager[object]]) -> Iterator[None]:
    """Enter contexts one by one, creating each only when it is entered, and leave them in reverse order."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


@contextmanager
def hooks(*handles: RemovableHandle) -> Iterator[None]:
    """Remove hooks at the end of the context, also after an error."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def other_forward(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """Temporarily replace a module's forward; a forward that was set on the instance before is restored."""
    before = vars(module).get("forward")
    cast(Any, module).forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            cast(Any, module).forward = before


def quick_linears(model: nn.Module) -> AbstractContextManager[None]:
    """Temporarily make all float32 linear modules of the model use `cpu_matmul.product`.

    Weights are read at every call, so swapped ones are used. Modules of a subclass or another dtype, and those whose
    forward is already replaced, stay unchanged.
    """
    return entered(
        other_forward(module, partial(_quick_forward, module))
        for module in model.modules()
        if type(module) is nn.Linear and module.weight.dtype == torch.float32 and "forward" not in vars(module)
    )


def _quick_forward(module: nn.Linear, x: Tensor) -> Tensor:
    # `product` checks the device at each call, because offloaded weights are moved only then.
    return product(x, module.weight, module.bias)
