"""Discovery of what turns the last residual stream into logits: final norm, LM head, scale and soft cap."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.output_head import FinalNorm, OutputHead, find_final_norm
from prunescope.pipelines.metrics.rounding import allowed, distance
from prunescope.pipelines.models.forward_probe import ForwardRecorder, nearest
from prunescope.pipelines.models.module_calls import first_tensor, other_forward

# Largest logit of a probe that every cap flattens, and of one that no cap changes; half types have a smaller range.
_HUGE, _TINY, _TINY_HALF = 1e6, 1e-3, 0.1


@dataclass(frozen=True)
class LMHead:
    """The trunk, the module that reads the last stream, and the head as formulas."""

    trunk: nn.Module
    final: nn.Module
    head: OutputHead


def find_lm_head(model: nn.Module, probe: Tensor, logits: Tensor, last: nn.Module, run: ForwardRecorder) -> LMHead:
    """Find and prove everything after the last layer, from the logits on the tokens `probe`; InputError if it fails."""
    module = cast(Any, model).get_output_embeddings()
    if not isinstance(module, nn.Linear):
        raise InputError(f"{type(model).__name__}: the LM head is not one linear module; refused")
    outputs = [
        (calls[0].order, below, calls[0].output)
        for below, calls in run.calls.items()
        if below is not model and isinstance(getattr(calls[0].output, "last_hidden_state", None), Tensor)
    ]
    if not outputs:
        raise InputError(f"{type(model).__name__}: no part of it returns its last states; is it a decoder?")
    _, trunk, trunk_output = min(outputs, key=itemgetter(0))  # the outermost module is called first
    stream, states = run.call_of(last).result, trunk_output.last_hidden_state
    final, norm = _final_norm(stream, states, module, last, run)
    # Separate views, because weights that are swapped into a tied embedding must not reach the head.
    bias = None if module.bias is None else module.bias.detach().float()
    weight = module.weight.detach()
    half = weight if weight.dtype.itemsize == 2 else None
    plain = OutputHead(weight=weight.float(), bias=bias, norm=norm, half=half)
    if plain.weight.shape[1] != states.shape[-1]:
        raise InputError(f"{run.names[module]}: its input width differs from that of the last states; refused")

    def logits_of(states: Tensor) -> Tensor:
        with other_forward(trunk, lambda *_, **__: replace(trunk_output, last_hidden_state=states)):
            return first_tensor(model(input_ids=probe, use_cache=False).logits)

    largest = allowed(run.rounding[module], logits.dtype)
    head = _prove_head(plain, logits_of, states, run.names[module], run.numbers, largest)
    error = distance(head.logits(stream[0].float()), logits[0].float())
    if not error <= largest:
        raise InputError(
            f"{run.names[final]}, {run.names[module]}: norm and head do not rebuild the logits ({error:.1e}); refused"
        )
    return LMHead(trunk, final, head)


def _final_norm(
    stream: Tensor, states: Tensor, head: nn.Module, last: nn.Module, run: ForwardRecorder
) -> tuple[nn.Module, FinalNorm | None]:
    """Return the module between the last layer's stream and the last states, and its formula."""
    if torch.equal(states, stream):
        return head, None
    last_order = run.call_of(last).order
    for module, calls in run.calls.items():
        call = calls[-1]
        if call.order <= last_order or call.output_copy is None or call.output_copy.shape != states.shape:
            continue
        if torch.equal(call.output_copy, states) and torch.equal(call.input_copy, stream):
            return module, find_final_norm(module, states.shape[-1])
    raise InputError(f"{run.names[head]}: there is more than one norm between {run.names[last]} and the head; refused")


def _prove_head(
    plain: OutputHead,
    logits_of: Callable[[Tensor], Tensor],
    states: Tensor,
    name: str,
    known: set[float],
    largest_error: float,
) -> OutputHead:
    """Measure scale and cap on states that the cap flattens fully or not at all, then prove both on others."""
    size = float(plain.linear(states[0].float()).double().abs().max())

    def at(factor: float) -> tuple[Tensor, Tensor]:
        """Return scaled states and the model's logits for them."""
        scaled = (states * factor).to(states.dtype)
        return scaled[0].float(), logits_of(scaled)[0]

    largest = torch.finfo(states.dtype).max / 16
    x, logits = at(min(_HUGE / size, largest / size, largest / float(states.abs().max())))
    huge = logits.double()
    z = plain.linear(x).double()
    slope = float((huge * z).sum() / z.square().sum())
    x, logits = at((_TINY if torch.finfo(states.dtype).bits >= 32 else _TINY_HALF) / size)
    z = plain.logits_of_state(x).double()
    scale = float((logits.double() * z).sum() / z.square().sum())
    # With a cap, huge logits are much smaller than the scale of tiny ones predicts.
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
                x, logits = at(factor)
                error = max(error, distance(head.logits_of_state(x), logits.float()))
            if error <= largest_error:
                return head
            errors.append(error)
    raise InputError(
        f"{name}: logits are not cap·tanh(scale·W x / cap) of the last states, nor without a cap "
        f"(relative error {min(errors):.1e}); refused"
    )
