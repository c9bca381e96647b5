"""Measurement of the rounding of a model's own arithmetic, and the tolerances of all proofs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Two results agree if they differ by at most this many times the measured rounding. On 42 kinds of decoder and three
# real models, layers that read in chunks or with padding differ by up to 1.9 times the rounding. Half precision sums in
# float32, so other shapes seldom round differently: real models in bfloat16 differ by up to 0.1 times.
_FACTOR, _FACTOR_IN_HALF = 4, 1
# Results that differ by a quarter of their length never agree, however a model rounds.
_LARGEST = 0.25
# A repeated computation differs by far less than its rounding. These limits, relative and in eps, refuse a model that
# draws noise, because the noise would be measured as rounding.
_LARGEST_AGAIN, _LARGEST_AGAIN_IN_EPS = 0.1, 4096
# Long float32 sums round more than their terms, by √(length / 64): oneDNN's products of one row, with 64 to 18,944
# inputs, are off by 0.08 √length eps. Half-precision sums are computed in float32.
_LONG = 64
# A sum of a few tensors is rounded a few times, each time by at most eps times the largest partial sum.
_ROUNDINGS = 8
# Largest relative error of a norm's formula on random rows of usual size. A norm in bfloat16 rounds its output to 8
# bits; the error of a wrong kind is far larger.
OF_NORM = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def is_sum(total: Tensor, terms: list[Tensor]) -> bool:
    """Return whether a tensor is the sum of others, element by element, up to the rounding of its dtype."""
    flat = [term.reshape(-1) for term in terms]
    truth = total.reshape(-1)
    if any(term.shape != truth.shape for term in flat):
        return False
    wide = torch.stack([term.double() for term in flat])
    allowed = _ROUNDINGS * torch.finfo(total.dtype).eps * wide.abs().sum(dim=0)
    return bool(((wide.sum(dim=0) - truth.double()).abs() <= allowed).all())


def is_close(actual: Tensor, truth: Tensor, rounding: float) -> bool:
    """Return whether two results have the same number of elements, in any shapes, and differ by rounding alone.

    `rounding` is the distance that rounding alone causes, as measured with `other_rounding`.
    """
    factor = _FACTOR if truth.dtype.itemsize > 2 else _FACTOR_IN_HALF
    return actual.numel() == truth.numel() and distance(actual, truth) <= min(factor * rounding, _LARGEST)


def is_same(actual: Tensor, truth: Tensor, rounding: float) -> bool:
    """Return whether a computation repeated in the same shapes gave the same result; arguments as in `is_close`."""
    return actual.numel() == truth.numel() and distance(actual, truth) <= allowed(rounding, truth.dtype)


def allowed(rounding: float, dtype: torch.dtype) -> float:
    """Return the largest distance of a repeated computation: a few times rounding, at most 5e-4 in float32."""
    return min(_FACTOR * rounding, _LARGEST_AGAIN, _LARGEST_AGAIN_IN_EPS * torch.finfo(dtype).eps)


def distance(actual: Tensor, truth: Tensor) -> float:
    """Return the norm of the difference, relative to the norm of `truth`."""
    one, other = actual.reshape(-1).double(), truth.reshape(-1).double()
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


@contextmanager
def other_rounding(model: nn.Module) -> Iterator[None]:
    """Run the model as if every operation rounded differently (Monte Carlo arithmetic, Parker 1997).

    Modules without children get perturbed inputs. Modules with parameters of their own get perturbed inputs and
    outputs. The perturbation is at most one eps, or more for inputs of long sums. The results show how far another
    order of sums could move them: by cancellation in a product, a large bias, or a score in attention. Hooks registered
    inside this context see the perturbed values.
    """
    generator = torch.Generator().manual_seed(0)

    def before(_: nn.Module, args: tuple[Any, ...]) -> Any:  # noqa: ANN401
        return _moved(args, generator, is_summed=True)

    def after(_: nn.Module, __: tuple[Any, ...], output: object) -> object:
        return _moved(output, generator, is_summed=False)

    with ExitStack() as stack:
        for module in model.modules():
            has_parameters = any(True for _ in module.parameters(recurse=False))
            if has_parameters or not any(True for _ in module.children()):
                stack.callback(module.register_forward_pre_hook(before).remove)
            if has_parameters:
                stack.callback(module.register_forward_hook(after).remove)
        yield


def _moved(value: Any, generator: torch.Generator, *, is_summed: bool) -> Any:  # noqa: ANN401 (any module's argument)
    """Return a value with its floating-point tensors, also in tuples and lists, perturbed as in `other_rounding`."""
    if type(value) in {tuple, list}:
        return type(value)(_moved(each, generator, is_summed=is_summed) for each in value)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    wide = torch.promote_types(value.dtype, torch.float32)
    noise = torch.rand(value.shape, generator=generator, dtype=wide).to(value.device) * 2 - 1
    size = torch.finfo(value.dtype).eps
    if is_summed and value.dtype == wide:
        size *= max(1.0, value.shape[-1] / _LONG) ** 0.5
    return (value.to(wide) * (1 + size * noise)).to(value.dtype)
