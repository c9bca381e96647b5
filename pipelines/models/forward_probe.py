"""What every module of a model read and returned in one short run, and how exactly a sum of tensors rebuilds another.

What it means is for `structure.py` and `output.py` to find.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunescope.pipelines.models.module_calls import Arguments, state_argument

# A sum of a few tensors is rounded a few times; each time by at most eps times the largest partial sum.
_ROUNDINGS = 8


@dataclass
class ModuleIO:
    """One call of a module.

    Attributes:
        order: number of the call in the run.
        call: arguments as they were passed.
        given: the state among them, by reference, and `state`, a copy of it as it was.
        output: what it returned, by reference, and `result`, a copy of its first tensor as it was.
    """

    order: int
    call: Arguments
    given: Tensor
    state: Tensor
    output: Any = None
    returned: Tensor | None = None
    result: Tensor | None = None


class ForwardRecorder:
    """Every module's calls while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[nn.Module, list[ModuleIO]] = {}
        self._model, self._count = model, 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        """Starts to record."""
        for module in self._model.modules():
            self._handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._leave, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def once(self, module: nn.Module) -> ModuleIO | None:
        """The call of a module that was called exactly once on a state and returned one."""
        calls = self.calls.get(module, [])
        return calls[0] if len(calls) == 1 and calls[0].result is not None else None

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = state_argument(args, kwargs)
        if given is not None:
            self._count += 1
            self.calls.setdefault(module, []).append(ModuleIO(self._count, (args, kwargs), given, given.clone()))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        given = state_argument(args, kwargs)
        open_calls = [seen for seen in self.calls.get(module, []) if seen.output is None and seen.given is given]
        if not open_calls:
            return
        seen = open_calls[-1]
        seen.output = output
        result = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(result, Tensor):
            seen.returned, seen.result = result, result.clone()


def same_memory(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are the same numbers in the same place, maybe in another shape."""
    if one is None or other is None:
        return False
    return bool(one.data_ptr() == other.data_ptr() and one.numel() == other.numel())


def is_sum(total: Tensor, terms: list[Tensor]) -> bool:
    """Whether a tensor is the sum of others, element by element, to the rounding of its type."""
    flat = [term.reshape(-1) for term in terms]
    truth = total.reshape(-1)
    if any(term.shape != truth.shape for term in flat):
        return False
    wide = torch.stack([term.double() for term in flat])
    allowed = _ROUNDINGS * torch.finfo(total.dtype).eps * wide.abs().sum(dim=0)
    return bool(((wide.sum(dim=0) - truth.double()).abs() <= allowed).all())


def is_close(found: Tensor, truth: Tensor) -> bool:
    """Whether two results of the same products differ by rounding alone: 6e-6 of the length in float32."""
    if found.numel() != truth.numel():
        return False
    return bool(distance(found, truth) <= torch.finfo(truth.dtype).eps ** 0.75)


def distance(found: Tensor, truth: Tensor) -> float:
    """Length of the difference, relative to the truth's."""
    one, other = found.reshape(-1).double(), truth.reshape(-1).double()
    return float((one - other).norm() / other.norm().clamp_min(1e-30))


def multipliers(total: Tensor, stream: Tensor, outputs: list[Tensor], known: set[float]) -> list[float] | None:
    """Numbers m with total = stream + Σ m·output, by least squares; a known number where one is that close.

    The layer's own rounding leaves about 1e-7 of the stream over the output in an estimate, so the exact number is
    looked for among the config's; the estimate stands where none is near. The sum is for the caller to prove.
    """
    if any(output.numel() != total.numel() for output in outputs):
        return None
    columns = torch.stack([output.reshape(-1).double() for output in outputs], dim=1)
    target = (total.double() - stream.double()).reshape(-1, 1)
    found = torch.linalg.lstsq(columns, target).solution.reshape(-1).tolist()
    return [nearest(number, known, total.dtype) for number in found]


def nearest(number: float, known: set[float], dtype: torch.dtype) -> float:
    """The known number within 1e-3 of an estimate (8e-3 in bfloat16), else the estimate."""
    allowed = max(1e-3, torch.finfo(dtype).eps) * abs(number)
    best = min(known | {1.0}, key=lambda other: abs(other - number))
    return best if abs(best - number) <= allowed else number


def numbers_of(*holders: object) -> set[float]:
    """All numbers in configs and modules, and their reciprocals: where a model keeps its multipliers and caps."""
    found: set[float] = set()

    def visit(value: object) -> None:
        if isinstance(value, dict):
            for each in value.values():
                visit(each)
        elif isinstance(value, (list, tuple)):
            for each in value:
                visit(each)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            found.update({float(value), 1 / value})

    for holder in holders:
        visit(holder)
    return found
