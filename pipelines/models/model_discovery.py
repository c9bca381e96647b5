"""Discovery of a model's layers, sublayers, final norm and head by a short probe that proves each of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.metrics.rounding import distance, is_same, other_rounding
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.file_validation import library_errors
from prunescope.pipelines.models.forward_probe import ForwardRecorder
from prunescope.pipelines.models.known_text import WHOLE, KnownText, Pass
from prunescope.pipelines.models.layer_discovery import find_layer
from prunescope.pipelines.models.lm_head import find_lm_head
from prunescope.pipelines.models.meta_model import context_length
from prunescope.pipelines.models.module_calls import CODE_ERRORS, MASK_ERRORS, first_tensor, hooks, without_cache
from prunescope.pipelines.models.skipping import SkipPlan, find_skips
from prunescope.pipelines.models.sublayer import SublayerCall, has_matrix
from prunescope.pipelines.models.weight_offload import data_of, swapped_data

# Enough tokens for short attention windows to end and for several chunks.
_PROBE_TOKENS = 12
_CHUNKS = (9, 1, 1, 1)
_PADDING = 3
_CHUNKS_SKIPPED = (10, 1, 1)


def discover(model: nn.Module, tokenizer: Any, folder: Path) -> Decoder:  # noqa: ANN401 (any tokenizer)
    """Find layers, sublayers, final norm and head by running a short probe, and prove each.

    The following is proved up to the model's own rounding, which is measured first. The stream plus the contributions
    of its sublayers rebuilds every layer's output. A sublayer called again adds the same. A layer without its sublayers
    returns its input. Norm, head, scale and cap rebuild the logits. A model without an LM head may be post-norm and
    need not be causal. Discovery costs about 37 passes over 12 tokens, in which random numbers replace zero weights.

    Raises:
        InputError: a part could not be found or proved; names the module and the reason.
        ComputationError: the weights give NaN or infinite numbers.
    """
    with torch.inference_mode(), _zeros_replaced(model):
        return _discovered(model, tokenizer, folder)


@contextmanager
def _zeros_replaced(model: nn.Module) -> Iterator[None]:
    """Temporarily replace all parameters that are zero by random numbers, if one of them is a matrix.

    A sublayer of zeros adds nothing, so its output shows neither what it reads nor how it is added. Exported models
    with dropped sublayers have such weights.
    """
    zeros = [parameter for parameter in model.parameters() if _is_zero(parameter)]
    # Biases of zeros are common, and alone they hide nothing.
    if not any(parameter.dim() >= 2 for parameter in zeros):
        yield
        return
    generator = torch.Generator().manual_seed(0)

    def random(parameter: nn.Parameter) -> Tensor:
        inputs = parameter.shape[-1] if parameter.dim() >= 2 else 4
        return torch.randn(parameter.shape, generator=generator).div(inputs**0.5).to(parameter.data)

    with swapped_data(zeros, random):
        yield


def _is_zero(parameter: nn.Parameter) -> bool:
    if not parameter.is_floating_point() or not parameter.numel():
        return False
    data = data_of(parameter)
    # For nearly all parameters the first number decides.
    return not bool(data.reshape(-1)[:1].any()) and not bool(data.any())


def _discovered(model: nn.Module, tokenizer: Any, folder: Path) -> Decoder:  # noqa: ANN401
    typed = cast(Any, model)
    parameter = next(model.parameters())
    vocabulary = int(typed.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(0, vocabulary, (1, _PROBE_TOKENS), generator=generator).to(parameter.device)
    # Embedding models (E5-Mistral, BERT) are published without an LM head.
    has_head = typed.get_output_embeddings() is not None

    run = ForwardRecorder(model)
    with hooks(*run.watch()), library_errors(folder, "it fails on its first tokens"):
        result = model(input_ids=probe, **without_cache(model))
    _require_finite(run)
    stack = _layer_stack(model, run)
    with other_rounding(model), hooks(*run.watch_rounding(stack)):
        model(input_ids=probe, **without_cache(model))
    config = typed.config
    layers = tuple(find_layer(index, module, run, may_norm_stream=not has_head) for index, module in enumerate(stack))
    owners: dict[int, str] = {}
    for sublayer in (sublayer for layer in layers for sublayer in layer.sublayers):
        for name, matrix in sublayer.matrices.items():
            if (owner := owners.setdefault(id(matrix.parameter), sublayer.name)) != sublayer.name:
                raise InputError(f"{name}: shares its weight with {owner}; one cannot change alone; refused")
    output = find_lm_head(model, probe, first_tensor(result.logits), stack[-1], run) if has_head else None

    sources = (getattr(model, "generation_config", None), config, tokenizer)
    ends = [getattr(source, "eos_token_id", None) for source in sources]
    flat = [end for group in ends for end in (group if isinstance(group, list) else [group]) if end is not None]
    decoder = Decoder(
        model=model,
        trunk=output.trunk if output else model,
        layers=layers,
        output=output,
        tokenizer=tokenizer,
        end_ids=frozenset(flat),
        vocabulary=vocabulary,
        width=run.call_of(stack[-1]).result.shape[-1],
        context_length=context_length(config, tokenizer),
        folder=folder,
        dtype=parameter.dtype,
        device=parameter.device,
    )
    known = KnownText(decoder, probe)
    states = run.calls[decoder.trunk][0].output.last_hidden_state
    with other_rounding(model):
        decoder = replace(decoder, rounding=distance(decoder.hidden(probe), states))
    if not is_same(again := decoder.hidden(probe), states, decoder.rounding):
        raise InputError(
            f"{type(model).__name__}: two runs on the same tokens differ by {distance(again, states):.1e} of their "
            "length; a model that draws random numbers is refused"
        )
    decoder = replace(decoder, cache_refusal=_cache_refusal(decoder, probe, known))
    other = probe.clone()
    other[:, -1] = (other[:, -1] + 1) % vocabulary
    is_causal = known.differing([(partial(decoder.hidden, other), slice(-1))]) is None
    decoder = replace(decoder, is_causal=is_causal)
    padded = _padded_left if decoder.is_causal else _padded_right
    decoder = replace(decoder, can_pad=known.is_read_by(padded(decoder, probe), MASK_ERRORS))
    return replace(decoder, skips=_skips(decoder, probe, run))


def _require_finite(run: ForwardRecorder) -> None:
    for module in run.calls:
        inner_is_finite = all(_is_finite(run, child) for child in module.children() if child in run.calls)
        if not _is_finite(run, module) and inner_is_finite:
            raise ComputationError(
                f"{run.names[module]}: NaN or infinite numbers on the first tokens; its weights are damaged"
            )


def _is_finite(run: ForwardRecorder, module: nn.Module) -> bool:
    return all(bool(call.result.isfinite().all()) for call in run.calls[module] if call.output_copy is not None)


def _layer_stack(model: nn.Module, run: ForwardRecorder) -> nn.ModuleList:
    """Return the decoder layers: the longest list of modules with matrices that are each called once."""
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
    for layer, following in zip(stack, list(stack)[1:], strict=False):
        if not torch.equal(run.call_of(layer).result, run.call_of(following).input_copy):
            raise InputError(
                f"{run.names[following]}: does not read what {run.names[layer]} returns; "
                "without one residual stream through all layers it is refused"
            )
    return stack


def _cache_refusal(decoder: Decoder, probe: Tensor, known: KnownText) -> str | None:
    """Return why the cache cannot be used, or None if chunks give the known contributions, recorded and recomputed."""
    name = type(decoder.model).__name__
    calls: dict[str, list[SublayerCall]] = {each.label: [] for each in decoder.sublayers}
    try:
        cache = decoder.new_cache()
        with hooks(*(handle for each in decoder.sublayers for handle in each.record_calls(calls[each.label]))):
            chunks = probe.split(list(_CHUNKS), dim=1)
            differing = known.differing((partial(decoder.hidden, chunk, cache), WHOLE) for chunk in chunks)
        for sublayer in decoder.sublayers:
            empty = decoder.new_cache()
            again = torch.cat([sublayer.recompute(call, empty) for call in calls[sublayer.label]], dim=1)
            if sublayer.name == differing or not known.is_known(sublayer.label, again):
                return f"{name}: {sublayer.name} adds something else when tokens pass through a cache"
    except CODE_ERRORS as error:
        return f"{name} does not run through a cache ({str(error).strip().splitlines()[0][:100]})"
    return None


def _padded_left(decoder: Decoder, probe: Tensor) -> Iterator[Pass]:
    """Yield passes over the probe with left padding, in a batch of two, also after the other row has left."""
    padded = torch.nn.functional.pad(probe, (_PADDING, 0))
    tokens = torch.cat([torch.roll(padded, 1, dims=1), padded])
    real = torch.ones_like(tokens)
    real[1, :_PADDING] = 0
    if decoder.cache_refusal is not None:
        yield partial(decoder.hidden, tokens, None, real), slice(_PADDING, None)
        return
    cache, start = decoder.new_cache(), _PADDING + _CHUNKS[0]
    yield partial(decoder.hidden, tokens[:, :start], cache, real[:, :start]), slice(_PADDING, None)
    cache.keep([1])
    for end in range(start + 1, tokens.shape[1] + 1):
        yield partial(decoder.hidden, tokens[1:, end - 1 : end], cache, real[1:, :end]), WHOLE


def _padded_right(decoder: Decoder, probe: Tensor) -> Iterator[Pass]:
    padded = torch.nn.functional.pad(probe, (0, _PADDING), value=decoder.padding)
    lengths = torch.full((1,), probe.shape[1], device=probe.device)
    yield partial(decoder.padded, padded, lengths), slice(probe.shape[1])


def _skips(decoder: Decoder, probe: Tensor, run: ForwardRecorder) -> SkipPlan | None:
    """Return a plan proved for every attention, MLP and whole layer, with the cache if the model has one, or None."""
    plan = find_skips(list(decoder.sublayers), run)
    # A norm must run if the layer also uses its output as the stream, so the second plan skips no norms.
    for skips in () if plan is None else (plan, replace(plan, norms={})):
        if all(_is_skipped(replace(decoder, skips=skips), probe, shift) for shift in range(3)):
            return skips
    return None


def _is_skipped(decoder: Decoder, probe: Tensor, shift: int) -> bool:
    """Return whether skipping equals dropping: a third of the layers skips attention, a third the MLP, a third both."""
    keeps = {"attn": 1, "mlp": 0}
    labels = [each.label for each in decoder.sublayers if (each.layer + shift) % 3 != keeps[each.kind]]

    def states(*, skips: bool) -> Tensor:
        cache = decoder.new_cache() if decoder.cache_refusal is None else None
        chunks = (probe,) if cache is None else probe.split(list(_CHUNKS_SKIPPED), dim=1)
        with decoder.without(labels, skips=skips):
            return torch.cat([decoder.hidden(chunk, cache) for chunk in chunks], dim=1)

    try:
        return is_same(states(skips=True), states(skips=False), decoder.rounding)
    except CODE_ERRORS:
        return False  # the layer reads more of a module's output than its first tensor
