"""Recording of every module's input and output in one short run, and estimates of multipliers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunescope.pipelines.metrics.rounding import distance
from prunescope.pipelines.models.module_calls import Arguments, state_argument, with_state


@dataclass
class ModuleIO:
    """One call of a module, with its number in the run.

    `input` is the hidden state among the arguments, by reference, and `output_tensor` the first tensor of the output.
    Copies are kept because modules may overwrite their inputs and outputs.
    """

    order: int
    arguments: Arguments
    input: Tensor
    input_copy: Tensor
    output: Any = None
    output_tensor: Tensor | None = None
    output_copy: Tensor | None = None

    @property
    def result(self) -> Tensor:
        """Return `output_copy` of a call that is known to have returned a tensor."""
        return cast(Tensor, self.output_copy)


class ForwardRecorder:
    """Recorder of the calls of all modules of a model, in passes with the hooks of `watch`.

    `numbers` are all numbers in the model's config; multipliers and scales are often among them. `rounding` says, for
    each module that was called once, how far rounding within its layer moves its output.
    """

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[nn.Module, list[ModuleIO]] = {}
        self.names = {module: name for name, module in model.named_modules()}
        self.numbers = numbers_of(cast(Any, model).config.to_dict())
        self.rounding: dict[nn.Module, float] = {}
        self._model, self._count = model, 0

    def watch(self) -> list[RemovableHandle]:
        """Record every pass from now on; the caller removes the hooks."""
        handles = []
        for module in self._model.modules():
            handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            handles.append(module.register_forward_hook(self._after, with_kwargs=True))
        return handles

    def once(self, module: nn.Module) -> ModuleIO | None:
        """Return the only call of a module that was called once on a state and returned a tensor, or None."""
        calls = self.calls.get(module, [])
        return calls[0] if len(calls) == 1 and calls[0].output_copy is not None else None

    def call_of(self, module: nn.Module) -> ModuleIO:
        """Return the only call of a module for which `once` is known to find one."""
        return cast(ModuleIO, self.once(module))

    def watch_rounding(self, layers: Iterable[nn.Module]) -> list[RemovableHandle]:
        """Set `rounding` in the next pass, over the same tokens inside `other_rounding`; the caller removes the hooks.

        Each layer starts from its recorded stream, so a module's rounding does not include that of earlier layers.
        """

        def restart(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
            return with_state(args, kwargs, self.call_of(layer).input_copy)

        starts = [layer.register_forward_pre_hook(restart, with_kwargs=True) for layer in layers]
        return starts + [module.register_forward_hook(self._compare) for module in self._model.modules()]

    def _compare(self, module: nn.Module, _: tuple[Any, ...], output: object) -> None:
        tensor = output[0] if isinstance(output, (tuple, list)) and output else output
        if self.once(module) is None or not isinstance(tensor, Tensor):
            return
        result = self.call_of(module).result
        # Experts may get another number of tokens, and rotations may be complex.
        if tensor.shape == result.shape and tensor.is_floating_point():
            self.rounding[module] = distance(tensor.cpu(), result.cpu())

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = state_argument(args, kwargs)
        if state is not None:
            self._count += 1
            self.calls.setdefault(module, []).append(ModuleIO(self._count, (args, kwargs), state, state.clone()))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        state = state_argument(args, kwargs)
        unfinished = [call for call in self.calls.get(module, []) if call.output is None and call.input is state]
        if not unfinished:
            return
        call = unfinished[-1]
        call.output = output
        tensor = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(tensor, Tensor):
            call.output_tensor, call.output_copy = tensor, tensor.clone()


def same_memory(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two tensors hold the same numbers at the same address, possibly in different shapes."""
    if one is None or other is None:
        return False
    return bool(one.data_ptr() == other.data_ptr() and one.numel() == other.numel())


def multipliers(total: Tensor, stream: Tensor, outputs: list[Tensor], known: set[float]) -> list[float] | None:
    """Estimate the numbers m with total = stream + Σ m·output by least squares; the caller proves the sum.

    Every element is weighted by its own rounding, which is large for a massive activation. An estimate has an error of
    about eps · |stream|/|output|. So each is replaced by the nearest of the `known` numbers (from the model's config)
    if one is close enough.
    """
    if any(output.numel() != total.numel() for output in outputs):
        return None
    size = (total.double().abs() + stream.double().abs()).reshape(-1, 1).clamp_min(1e-30)
    columns = torch.stack([output.reshape(-1).double() for output in outputs], dim=1) / size
    target = (total.double() - stream.double()).reshape(-1, 1) / size
    estimates = torch.linalg.lstsq(columns, target).solution.reshape(-1).tolist()
    return [nearest(number, known, total.dtype) for number in estimates]


def nearest(number: float, known: set[float], dtype: torch.dtype) -> float:
    """Return the known number within 1e-3 of an estimate (8e-3 in bfloat16), else the estimate."""
    allowed = max(1e-3, torch.finfo(dtype).eps) * abs(number)
    best = min(known | {1.0}, key=lambda other: abs(other - number))
    return best if abs(best - number) <= allowed else number


def numbers_of(value: object) -> set[float]:
    """Return all numbers in a nested config and their reciprocals, because multipliers and caps are among them."""
    if isinstance(value, dict):
        return numbers_of(list(value.values()))
    if isinstance(value, (list, tuple)):
        return set[float]().union(*map(numbers_of, value))
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
        return {float(value), 1 / value}
    return set()
