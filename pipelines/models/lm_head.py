"""Finds how a model turns its last residual stream into logits: final norm, LM head, scale and soft cap, all proved.

The formulas themselves are `prunescope.pipelines.metrics.heads`'.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.heads import FinalNorm, Head, find_final_norm
from prunescope.pipelines.models.forward_probe import ForwardRecorder, ModuleIO, distance, nearest
from prunescope.pipelines.models.module_calls import first_tensor

# How far rebuilt logits may be from the model's own, relative to their length: the head's products round too.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
# Largest logit of a probe where every cap cuts, and of one where none does; half types hold less, and need less.
_HUGE, _TINY, _TINY_HALF = 1e6, 1e-3, 0.1


def allowed(dtype: torch.dtype, layers: int) -> float:
    """How far the logits of two whole models of the same numbers may be apart, relative to their length.

    Sums of other blocks or in another order round differently in every layer, and what comes behind carries it on.
    """
    return min(TOLERANCE[dtype] * max(1, layers), 0.1)


@dataclass(frozen=True)
class LMHead:
    """The trunk, the module that reads the last stream, and the head as formulas."""

    trunk: nn.Module
    final: nn.Module
    head: Head


def find_output(
    model: nn.Module,
    probe: Tensor,
    logits: Tensor,
    last: nn.Module,
    run: ForwardRecorder,
    names: dict[nn.Module, str],
    known: set[float],
) -> LMHead:
    """Finds and proves everything behind the last layer.

    Args:
        model: the whole model.
        probe: its tokens.
        logits: what it made of them.
        last: the last layer.
        run: what every module read and returned.
        names: of all modules.
        known: numbers of the model's config, among which a scale may be.

    Raises:
        InputError: names the module and what could not be proved.
    """
    module = cast(Any, model).get_output_embeddings()
    if not isinstance(module, nn.Linear):
        raise InputError(f"{type(model).__name__}: the LM head is not one linear module; refused")
    trunk = _trunk(model, run)
    raw = run.calls[trunk][0].output
    stream, states = cast(Tensor, cast(ModuleIO, run.once(last)).result), raw.last_hidden_state
    final, norm = _final_norm(stream, states, module, last, run, names)
    # Views of their own: other weights in a tied embedding must not reach the head.
    bias = None if module.bias is None else module.bias.detach().float()
    plain = Head(weight=module.weight.detach().float(), bias=bias, norm=norm)
    if plain.weight.shape[1] != states.shape[-1]:
        raise InputError(f"{names[module]}: reads another width than the last states have; refused")

    def run_head(given: Tensor) -> Tensor:
        """The model's logits, of states in place of the trunk's."""
        trunk.forward = lambda *_, **__: replace(raw, last_hidden_state=given)
        try:
            return first_tensor(model(input_ids=probe, use_cache=False).logits)
        finally:
            del trunk.forward

    head = _prove_head(plain, run_head, states, names[module], known)
    error = distance(head.logits(stream[0].float()), logits[0].float())
    if not error <= TOLERANCE[logits.dtype]:
        raise InputError(
            f"{names[final]}, {names[module]}: norm and head do not rebuild the logits ({error:.1e}); refused"
        )
    return LMHead(trunk, final, head)


def _trunk(model: nn.Module, run: ForwardRecorder) -> nn.Module:
    """The outermost module below the model that returns last states."""
    found = [
        (calls[0].order, module)
        for module, calls in run.calls.items()
        if module is not model and isinstance(getattr(calls[0].output, "last_hidden_state", None), Tensor)
    ]
    if not found:
        raise InputError(f"{type(model).__name__}: no part of it returns its last states; is it a decoder?")
    return min(found, key=lambda each: each[0])[1]


def _final_norm(
    stream: Tensor, states: Tensor, head: nn.Module, last: nn.Module, run: ForwardRecorder, names: dict[nn.Module, str]
) -> tuple[nn.Module, FinalNorm | None]:
    """The module between the last layer's stream and the last states, and its formula."""
    if torch.equal(states, stream):
        return head, None
    behind = cast(ModuleIO, run.once(last)).order
    for module, calls in run.calls.items():
        seen = calls[-1]
        if seen.order <= behind or seen.result is None or seen.result.shape != states.shape:
            continue
        if torch.equal(seen.result, states) and torch.equal(seen.state, stream):
            return module, find_final_norm(module, states.shape[-1])
    raise InputError(f"{names[head]}: between {names[last]} and the head stands more than one norm; refused")


def _prove_head(
    plain: Head, run_head: Callable[[Tensor], Tensor], states: Tensor, name: str, known: set[float]
) -> Head:
    """Scale and cap, measured where a cap is all or nothing, and the formula proved in between."""
    logits = plain.linear(states[0].float()).double()
    size = float(logits.abs().max())

    def at(factor: float) -> tuple[Tensor, Tensor]:
        given = (states * factor).to(states.dtype)
        return given[0].float(), run_head(given)[0]

    room = torch.finfo(states.dtype).max / 16
    x, found = at(min(_HUGE / size, room / size, room / float(states.abs().max())))
    huge = found.double()
    z = plain.linear(x).double()
    slope = float((huge * z).sum() / z.square().sum())
    x, found = at((_TINY if torch.finfo(states.dtype).bits >= 32 else _TINY_HALF) / size)
    z = plain.logits_of_state(x).double()
    scale = float((found.double() * z).sum() / z.square().sum())
    # A cap flattens the huge logits to a fraction of their line.
    cap = None if abs(slope - scale) <= 0.1 * abs(scale) else float(huge.abs().max())
    if plain.bias is not None and cap is None:
        scale = slope
    errors = []
    for number in (nearest(scale, known, states.dtype), scale):
        for bias in {None} if plain.bias is None else (plain.bias, plain.bias * number):
            head = replace(plain, scale=number, cap=cap, bias=bias)
            middle = size if cap is None else 2 * cap / abs(number)
            error = 0.0
            for factor in (1.0, middle / size):
                x, found = at(factor)
                error = max(error, distance(head.logits_of_state(x), found.float()))
            if error <= TOLERANCE[states.dtype]:
                return head
            errors.append(error)
    raise InputError(
        f"{name}: logits are not cap·tanh(scale·W x / cap) of the last states, nor without a cap "
        f"(relative error {min(errors):.1e}); refused"
    )
