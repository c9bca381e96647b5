"""Finds layers, sublayers, final norm and head of a model by running a short probe, and proves each.

What cannot be proved is refused by name; what the parts are is told in `decoder.py` and `sublayer.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.context_length import context_length
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.forward_probe import ForwardRecorder, ModuleIO, distance, is_close, numbers_of
from prunescope.pipelines.models.layer_discovery import find_layer
from prunescope.pipelines.models.lm_head import find_output
from prunescope.pipelines.models.module_calls import first_tensor, hooks, without_cache
from prunescope.pipelines.models.skipping import SkipPlan, find_skips
from prunescope.pipelines.models.sublayer import Sublayer, SublayerCall, has_matrix

# Long enough for short windows to end and for several chunks; short enough to cost nothing.
_PROBE_TOKENS = 12
_CHUNKS = (9, 1, 1, 1)
_PADDING = 3
_CHUNKS_SKIPPED = (10, 1, 1)


@torch.inference_mode()
def discover(model: nn.Module, tokenizer: Any, folder: Path) -> Decoder:  # noqa: ANN401 (any tokenizer)
    """Finds layers, sublayers, final norm and head by running a short probe, and proves each.

    Proof, to the rounding of the model's type: the stream plus the contributions of its sublayers rebuilds every
    layer's output; a sublayer called again adds the same; without its sublayers a layer returns what it was given;
    norm, head, scale and cap rebuild the logits. A model without an LM head may be post-norm and may read both ways.
    It costs about 30 passes over 12 tokens.

    Raises:
        InputError: a part could not be found or proved; names the module and the reason.
        ComputationError: the weights give NaN or infinite numbers.
    """
    typed = cast(Any, model)
    parameter = next(model.parameters())
    vocabulary = int(typed.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(0, vocabulary, (1, _PROBE_TOKENS), generator=generator).to(parameter.device)
    names = {module: name for name, module in model.named_modules()}
    has_head = writes(model)

    run = ForwardRecorder(model)
    with run:
        result = model(input_ids=probe, **without_cache(model))
    _require_finite(run, names)
    stack = _layer_stack(model, run, names)
    config = typed.config
    known = numbers_of(config.to_dict())
    layers = tuple(
        find_layer(index, module, run, names, known, may_norm_stream=not has_head) for index, module in enumerate(stack)
    )
    _require_own_weights(layers)
    output = find_output(model, probe, first_tensor(result.logits), stack[-1], run, names, known) if has_head else None

    owners = (getattr(model, "generation_config", None), config, tokenizer)
    ends = [getattr(owner, "eos_token_id", None) for owner in owners]
    flat = [end for group in ends for end in (group if isinstance(group, list) else [group]) if end is not None]
    decoder = Decoder(
        model=model,
        trunk=output.trunk if output else model,
        layers=layers,
        output=output,
        tokenizer=tokenizer,
        end_ids=frozenset(flat),
        vocabulary=vocabulary,
        width=cast(Tensor, cast(ModuleIO, run.once(stack[-1])).result).shape[-1],
        context_length=context_length(config, tokenizer),
        folder=folder,
        dtype=parameter.dtype,
        device=parameter.device,
    )
    added, states = _contributions(decoder, probe)
    _require_same(decoder, run, states)
    decoder = replace(
        decoder, cache_refusal=_cache_refusal(decoder, probe, added), is_causal=_is_causal(decoder, probe, states)
    )
    can_pad = _can_pad if decoder.is_causal else _can_pad_behind
    decoder = replace(decoder, can_pad=can_pad(decoder, probe, states))
    return replace(decoder, skips=_skips(decoder, probe, run))


def writes(model: nn.Module) -> bool:
    """Whether a model has an LM head; E5-Mistral and BERT, as they are published to embed, have none."""
    return cast(Any, model).get_output_embeddings() is not None


def _is_causal(decoder: Decoder, probe: Tensor, states: Tensor) -> bool:
    other = probe.clone()
    other[:, -1] = (other[:, -1] + 1) % decoder.vocabulary
    return is_close(decoder.hidden(other)[:, :-1], states[:, :-1])


def _can_pad_behind(decoder: Decoder, probe: Tensor, states: Tensor) -> bool:
    padded = torch.nn.functional.pad(probe, (0, _PADDING), value=decoder.padding)
    lengths = torch.full((1,), probe.shape[1], device=probe.device)
    try:
        found = decoder.padded(padded, lengths)[:, : probe.shape[1]]
    except (RuntimeError, ValueError, TypeError, IndexError):  # an architecture without masks
        return False
    return is_close(found, states)


def _require_finite(run: ForwardRecorder, names: dict[nn.Module, str]) -> None:
    for module, calls in run.calls.items():
        for seen in calls:
            if seen.result is not None and seen.result.is_floating_point() and not bool(seen.result.isfinite().all()):
                if any(child in run.calls and not _is_finite(run, child) for child in module.children()):
                    continue
                raise ComputationError(
                    f"{names[module]}: NaN or infinite numbers on the first tokens; its weights are damaged"
                )


def _is_finite(run: ForwardRecorder, module: nn.Module) -> bool:
    return all(bool(seen.result.isfinite().all()) for seen in run.calls[module] if seen.result is not None)


def _layer_stack(model: nn.Module, run: ForwardRecorder, names: dict[nn.Module, str]) -> nn.ModuleList:
    """The list of decoder layers: the longest list of modules with matrices that run one behind the other."""
    stacks = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and all(has_matrix(member) and run.once(member) is not None for member in module)
    ]
    if not stacks:
        raise InputError(f"{type(model).__name__}: no list of decoder layers was found; is it a decoder?")
    stack = max(stacks, key=len)
    for before, behind in zip(stack, list(stack)[1:], strict=False):
        one, other = run.once(before), run.once(behind)
        if one is None or other is None or not torch.equal(cast(Tensor, one.result), other.state):
            raise InputError(
                f"{names[behind]}: does not read what {names[before]} returns; "
                "without one residual stream through all layers it is refused"
            )
    return stack


def _require_own_weights(layers: tuple[Layer, ...]) -> None:
    owners: dict[int, str] = {}
    for layer in layers:
        for sublayer in layer.sublayers:
            for name, matrix in sublayer.matrices.items():
                owner = owners.setdefault(id(matrix.parameter), sublayer.name)
                if owner != sublayer.name:
                    raise InputError(f"{name}: shares its weight with {owner}; one cannot change alone; refused")


def _contributions(decoder: Decoder, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What every sublayer adds in one pass, and the trunk's last states."""
    parts: dict[str, list[Tensor]] = {}
    with hooks(*(handle for each in decoder.sublayers for handle in each.watch(_into(parts, each)))):
        states = decoder.hidden(tokens)
    return {label: part for label, (part,) in parts.items()}, states


def _into(parts: dict[str, list[Tensor]], sublayer: Sublayer) -> Callable[[Tensor], None]:
    def see(value: Tensor) -> None:
        parts.setdefault(sublayer.label, []).append(value)

    return see


def _require_same(decoder: Decoder, run: ForwardRecorder, states: Tensor) -> None:
    """A second pass, now through the hooks of `watch`, gives what the first gave."""
    first = run.calls[decoder.trunk][0].output.last_hidden_state
    if not is_close(states, first):
        raise InputError(
            f"{type(decoder.model).__name__}: two runs on the same tokens differ by {distance(states, first):.1e} of "
            "their length; a model that draws random numbers is refused"
        )


def _cache_refusal(decoder: Decoder, probe: Tensor, added: dict[str, Tensor]) -> str | None:
    """Why tokens cannot pass one by one through a cache: a contribution, or its replay, is another than without."""
    name = type(decoder.model).__name__
    parts: dict[str, list[Tensor]] = {}
    calls: dict[str, list[SublayerCall]] = {each.label: [] for each in decoder.sublayers}
    handles = []
    for each in decoder.sublayers:
        handles += each.watch(_into(parts, each))
        handles += each.keep_calls(calls[each.label])
    try:
        with hooks(*handles):
            cache = decoder.new_cache()
            for chunk in probe.split(list(_CHUNKS), dim=1):
                decoder.hidden(chunk, cache)
        for each in decoder.sublayers:
            own = decoder.new_cache()
            again = torch.cat([each.replay(call, own) for call in calls[each.label]], dim=1)
            for found in (torch.cat(parts[each.label], dim=1), again):
                if not is_close(found, added[each.label]):
                    return f"{name}: {each.name} adds something else when tokens pass through a cache"
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        # Whatever an architecture raises on a cache that it does not know.
        return f"{name} does not run through a cache ({str(error).strip().splitlines()[0][:100]})"
    return None


def _can_pad(decoder: Decoder, probe: Tensor, states: Tensor) -> bool:
    """Whether the probe behind padding gives the same states beside a longer text, which then leaves the cache."""
    padded = torch.nn.functional.pad(probe, (_PADDING, 0))
    tokens = torch.cat([torch.roll(padded, 1, dims=1), padded])
    real = torch.ones_like(tokens)
    real[1, :_PADDING] = 0
    try:
        if decoder.cache_refusal is not None:
            found = decoder.hidden(tokens, None, real)[1:, _PADDING:]
        else:
            cache, start = decoder.new_cache(), _PADDING + _CHUNKS[0]
            parts = [decoder.hidden(tokens[:, :start], cache, real[:, :start])[1:, _PADDING:]]
            cache.keep([1])
            ends = range(start + 1, tokens.shape[1] + 1)
            parts += [decoder.hidden(tokens[1:, end - 1 : end], cache, real[1:, :end]) for end in ends]
            found = torch.cat(parts, dim=1)
    except (RuntimeError, ValueError, TypeError, IndexError):  # an architecture without masks
        return False
    return is_close(found, states)


def _skips(decoder: Decoder, probe: Tensor, run: ForwardRecorder) -> SkipPlan | None:
    """How sublayers are left out; proved on every attention, every MLP and every layer, through a cache if it can."""
    found = find_skips(list(decoder.sublayers), run)
    # A norm that the layer itself reads, too (as the stream), has to run.
    for skips in () if found is None else (found, replace(found, norms={})):
        if all(_is_skipped(replace(decoder, skips=skips), probe, turn) for turn in range(3)):
            return skips
    return None


def _is_skipped(decoder: Decoder, probe: Tensor, turn: int) -> bool:
    """Whether a third of the layers without attention, a third without MLP and a third without both compute right."""
    kept = {"attn": 1, "mlp": 0}
    gone = [each.label for each in decoder.sublayers if (each.layer + turn) % 3 != kept[each.kind]]
    with decoder.without(gone, skips=False):
        truth = decoder.hidden(probe)
    cache = decoder.new_cache() if decoder.cache_refusal is None else None
    chunks = (probe,) if cache is None else probe.split(list(_CHUNKS_SKIPPED), dim=1)
    try:
        with decoder.without(gone):
            found = torch.cat([decoder.hidden(chunk, cache) for chunk in chunks], dim=1)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # whatever a layer raises that reads more of a module than its first tensor
    return is_close(found, truth)
