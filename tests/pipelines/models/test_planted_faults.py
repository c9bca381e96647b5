"""Tests that proofs at load accept every form of decoder and refuse small faults, planted by hooks, in each of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.rounding import distance, is_close, other_rounding
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.model_discovery import discover
from prunescope.pipelines.models.module_calls import first_tensor, hooks, stream_of, with_first
from tests.tiny_models import EVERY_DECODER

Change = Callable[[Tensor, Tensor], Tensor]
# Faults are planted at this size, and at ten times the rounding that is measured at load.
SIZE = 1e-3
# Kinds whose cached pass in transformers differs from the uncached one without any fault.
WITHOUT_CACHE = {"bamba"}
SOME = ["llama", "gemma2", "bloom", "falcon_h1", "gpt_oss"]


@pytest.fixture(
    scope="module",
    params=[
        name if name in SOME else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in (getattr(each, "values", [each])[0] for each in EVERY_DECODER)
    ],
)
def decoder(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder(request.param)


def again(decoder: Decoder) -> Decoder:
    return discover(decoder.model, decoder.tokenizer, decoder.folder)


@contextmanager
def planted(change: Change, *modules: nn.Module) -> Iterator[None]:
    """Let modules return `change` of their first output and the state that they read."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> object:
        return with_first(output, change(first_tensor(output).clone(), stream_of(args, kwargs)))

    with hooks(*(module.register_forward_hook(hook, with_kwargs=True, prepend=True) for module in modules)):
        yield


def probe(decoder: Decoder) -> Tensor:
    return torch.randint(0, decoder.vocabulary, (1, 12), generator=torch.Generator().manual_seed(0))


def sizes(rounding: float) -> tuple[float, float]:
    """Return the sizes of faults, relative to the result that a proof compares."""
    return SIZE, 10 * rounding


def test_rounding_is_measured_and_small(decoder: Decoder) -> None:
    eps = torch.finfo(torch.float32).eps
    measured = [decoder.rounding.states, decoder.rounding.logits, *decoder.rounding.contributions.values()]
    assert len(measured) == 2 + 2 * len(decoder.layers)
    assert all(eps <= each <= 200 * eps for each in measured)


@pytest.mark.parametrize("which", [0, 1])
def test_a_multiplier_that_is_wrong_for_one_token_is_refused(decoder: Decoder, which: int) -> None:
    layer = decoder.layers[1]

    def change(output: Tensor, stream: Tensor) -> Tensor:
        size = sizes(max(decoder.rounding.contributions[each.label] for each in layer.sublayers))[which]
        output[:, -1] += size * (output - stream)[:, -1]
        return output

    with planted(change, layer.module), pytest.raises(InputError, match="does not rebuild its output"):
        again(decoder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cache_that_changes_what_a_sublayer_adds_is_refused(decoder: Decoder, which: int) -> None:
    if decoder.cache_refusal is not None:
        assert decoder.folder.name in WITHOUT_CACHE
        return
    attn = decoder.layers[1].attn
    added: list[Tensor] = []
    with hooks(*attn.watch(added.append)):
        decoder.hidden(probe(decoder))
    # Three of twelve tokens pass one by one.
    share = float(added[0][:, -3:].norm() / added[0].norm())
    size = sizes(decoder.rounding.contributions[attn.label])[which] / share

    def change(output: Tensor, _: Tensor) -> Tensor:
        return output * (1 + size) if output.shape[1] == 1 else output

    with planted(change, *(part.chain[-1] for part in attn.parts)):
        assert "adds something else when tokens pass through a cache" in str(again(decoder).cache_refusal)


@pytest.mark.parametrize("which", [0, 1])
def test_a_final_norm_that_is_mixed_with_another_is_refused(decoder: Decoder, which: int) -> None:
    norm = decoder.head.norm
    assert norm is not None

    def change(output: Tensor, _: Tensor) -> Tensor:
        # LayerNorm for RMSNorm, and the other way.
        other = output - output.mean(dim=-1, keepdim=True) if norm.kind.startswith("rms") else output.clone()
        other[..., 0] += output.norm(dim=-1) * (not norm.kind.startswith("rms"))
        return output + (other - output) * sizes(decoder.rounding.states)[which] / distance(other, output)

    with planted(change, decoder.final_norm), pytest.raises(InputError, match="final norm|do not rebuild the logits"):
        again(decoder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_mask_that_shows_the_next_token_is_noticed(decoder: Decoder, which: int) -> None:
    last, size = [part.chain[-1] for part in decoder.layers[-1].attn.parts], SIZE

    def change(output: Tensor, _: Tensor) -> Tensor:
        if output.dim() == 3 and output.shape[1] > 1:
            output[:, :-1] += size * output[:, 1:]
        return output

    def moved() -> float:
        tokens = probe(decoder)
        other = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % decoder.vocabulary], dim=1)
        return distance(*(decoder.hidden(each)[:, :-1] for each in (other, tokens)))

    assert decoder.is_causal
    assert moved() <= 4 * decoder.rounding.states
    with planted(change, *last):
        wanted = sizes(decoder.rounding.states)[which]
        for _ in range(2):  # what reaches the last states is proportional to a small fault
            size *= wanted / moved()
        assert moved() == pytest.approx(wanted, rel=0.3)
        if decoder.folder.name == "bloom":  # its attention adds the stream itself, and here that of another token
            with pytest.raises(InputError, match="does not rebuild its output"):
                again(decoder)
        else:
            assert not again(decoder).is_causal


def test_a_weight_of_two_layers_is_refused(decoder: Decoder) -> None:
    first, *others = ([matrix.parameter for matrix in layer.mlp.matrices.values()] for layer in decoder.layers)
    # Layers may differ in form, as Jamba's do.
    one, other = next((a, b) for later in others for b in later for a in first if a.shape == b.shape)
    places = [
        (module, name)
        for module in decoder.model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter is other
    ]
    for module, name in places:
        setattr(module, name, one)
    try:
        with pytest.raises(InputError, match="shares its weight with"):
            again(decoder)
    finally:
        for module, name in places:
            setattr(module, name, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_measured_rounding_is_that_of_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)).to(dtype)
    x = torch.randn(64, 256, dtype=dtype)
    with torch.no_grad():
        before = module(x)
        with other_rounding(module):
            rounding = distance(module(x), before)
        # Uniform within ±eps at two inputs and two outputs, each eps/√3: 2 eps/√3 together. The products round on top.
        expected = 2 * torch.finfo(dtype).eps / 3**0.5
        assert 0.9 * expected <= rounding <= 4 * expected
        assert torch.equal(module(x), before)
        exact = module.double()(x.double())
    assert is_close(before, exact.to(dtype), rounding)
    assert not is_close(before * (1 + 20 * rounding), exact.to(dtype), rounding)


def test_cancelling_terms_and_large_biases_raise_the_measured_rounding() -> None:
    torch.manual_seed(0)
    plain, large = nn.Linear(64, 64), nn.Linear(64, 64)
    large.load_state_dict(plain.state_dict())
    with torch.no_grad():
        large.bias += 300
    undo = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        undo.weight -= undo.weight.mean(dim=1, keepdim=True)  # what the bias adds cancels in the second product
    x = torch.randn(8, 64)
    found = []
    with torch.no_grad():
        for first in (plain, large):
            module = nn.Sequential(first, undo)
            before, exact = module(x), module.double()(x.double())
            module.float()
            with other_rounding(module):
                found.append(distance(module(x), before))
            assert is_close(before, exact.float(), found[-1])
    assert found[1] > 20 * found[0]
