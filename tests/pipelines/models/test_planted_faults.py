"""Tests that proofs at load accept every form of decoder and refuse small faults, planted by hooks, in each of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from torch import Tensor, nn

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.metrics.rounding import distance, is_close, other_rounding
from prunescope.pipelines.models.cached_identity import known_folder
from prunescope.pipelines.models.decoder import Decoder, Layer
from prunescope.pipelines.models.known_text import KnownText
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.model_discovery import discover
from prunescope.pipelines.models.module_calls import first_tensor, hooks, stream_of, with_first
from prunescope.pipelines.models.sources import locate
from prunescope.pipelines.models.token_cache import TokenCache
from tests.pipelines.models.reference_models import save_massive
from tests.tiny_models import EVERY_DECODER

Change = Callable[[Tensor, Tensor], Tensor]
# Faults are planted at this size, or at the smallest that shows, and at ten times the rounding measured at load.
SIZE = 1e-3
# Kinds whose cached pass in transformers differs from the uncached one without any fault.
WITHOUT_CACHE = {"bamba"}
# Kinds that have rotations and do not use them.
WITHOUT_ROTATION = {"falcon-sequential", "granitemoehybrid"}
# Kinds whose states padding changes.
WITHOUT_PADDING = {"recurrent_gemma"}
SOME = ["llama", "gemma2", "bloom", "falcon_h1", "gpt_oss"]
CACHE = Path(platformdirs.user_cache_dir("prunescope"))
# The models of 500 MB and more are tested if they are in the cache.
REAL = ["embedded", "embedded:gemma-3-270m", "embedded:gemma-3-270m bfloat16"]
REAL += [name for name in ["embedded:qwen2.5-coder-0.5b"] if known_folder(name, CACHE) is not None]
# Activations of the sizes that models of 7 B parameters have.
MASSIVE = ["massive float32", "massive bfloat16"]


@pytest.fixture(
    scope="module",
    params=[
        name if name in (*SOME, *MASSIVE) else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in (*(getattr(each, "values", [each])[0] for each in EVERY_DECODER), *MASSIVE, *REAL)
    ],
)
def decoder(
    request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder], tmp_path_factory: pytest.TempPathFactory
) -> Decoder:
    name, dtype = (*request.param.split(), "float32")[:2]
    if request.param in MASSIVE:
        return load_decoder(save_massive(tmp_path_factory.mktemp(name)), dtype)
    return load_decoder(locate(name, CACHE), dtype, "cpu") if request.param in REAL else tiny_decoder(name)


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
    return max(SIZE, 10 * rounding), 10 * rounding


def rounding_of(decoder: Decoder) -> dict[str, float]:
    """Return how far rounding moves what each sublayer adds, by label."""
    return KnownText(decoder, probe(decoder)).rounding


def is_drowned(decoder: Decoder) -> bool:
    """Return whether rounding is as large as the states: biases of 300 in bfloat16 hide positions and tokens."""
    return decoder.rounding > 0.5


def middle(decoder: Decoder) -> Layer:
    return decoder.layers[len(decoder.layers) // 2]


def test_all_that_is_proved_of_the_model_itself_is_found(decoder: Decoder) -> None:
    assert (decoder.cache_refusal is None) == (decoder.folder.name not in WITHOUT_CACHE)
    assert decoder.is_causal
    assert decoder.can_pad == (decoder.folder.name not in WITHOUT_PADDING)
    assert decoder.skips is not None


def test_rounding_is_measured_and_small(decoder: Decoder) -> None:
    eps = torch.finfo(decoder.dtype).eps
    measured = [decoder.rounding, *rounding_of(decoder).values()]
    assert len(measured) == 1 + 2 * len(decoder.layers)
    assert all(0.5 * eps <= each <= 10_000 * eps for each in measured)


@pytest.mark.parametrize("which", [0, 1])
def test_a_multiplier_that_is_wrong_for_one_token_is_refused(decoder: Decoder, which: int) -> None:
    layer, rounding = middle(decoder), rounding_of(decoder)
    size = sizes(max(rounding[each.label] for each in layer.sublayers))[which]

    def change(output: Tensor, stream: Tensor) -> Tensor:
        output[:, -1] += size * (output - stream)[:, -1]
        return output

    with planted(change, layer.module), pytest.raises(InputError, match="does not rebuild its output"):
        again(decoder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cache_that_changes_what_a_sublayer_adds_is_refused(decoder: Decoder, which: int) -> None:
    if decoder.cache_refusal is not None:
        return
    attn = middle(decoder).attn
    added: list[Tensor] = []
    with hooks(*attn.watch(added.append)):
        decoder.hidden(probe(decoder))
    # Three of twelve tokens pass one by one.
    share = float(added[0][:, -3:].norm() / added[0].norm())
    size = sizes(rounding_of(decoder)[attn.label])[which] / share

    def change(output: Tensor, _: Tensor) -> Tensor:
        return output * (1 + size) if output.shape[1] == 1 else output

    with planted(change, *(part.chain[-1] for part in attn.parts)):
        assert "adds something else when tokens pass through a cache" in str(again(decoder).cache_refusal)


def test_positions_after_a_cache_that_are_off_by_one_are_refused(decoder: Decoder) -> None:
    is_rotated = hasattr(decoder.trunk, "rotary_emb") and decoder.folder.name not in WITHOUT_ROTATION
    if is_drowned(decoder) or decoder.cache_refusal is not None or not is_rotated:
        return

    def shift(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen = sum(value.get_seq_length() for value in kwargs.values() if isinstance(value, TokenCache))
        if seen and "position_ids" not in kwargs:
            kwargs = kwargs | {"position_ids": torch.arange(kwargs["input_ids"].shape[1])[None] + seen + 1}
        return args, kwargs

    with hooks(decoder.trunk.register_forward_pre_hook(shift, with_kwargs=True)):
        assert "adds something else when tokens pass through a cache" in str(again(decoder).cache_refusal)


@pytest.mark.parametrize("which", [0, 1])
def test_a_final_norm_that_is_mixed_with_another_is_refused(decoder: Decoder, which: int) -> None:
    norm = decoder.head.norm
    assert norm is not None

    def change(output: Tensor, _: Tensor) -> Tensor:
        # LayerNorm for RMSNorm, and the other way.
        other = output - output.mean(dim=-1, keepdim=True) if norm.kind.startswith("rms") else output.clone()
        other[..., 0] += output.norm(dim=-1) * (not norm.kind.startswith("rms"))
        return output + (other - output) * sizes(decoder.rounding)[which] / distance(other, output)

    with planted(change, decoder.final_norm), pytest.raises(InputError, match="final norm|do not rebuild the logits"):
        again(decoder)


@pytest.mark.parametrize("which", [0, 1])
def test_a_mask_that_shows_the_next_token_is_noticed(decoder: Decoder, which: int) -> None:
    if is_drowned(decoder):
        return
    attn, size = decoder.layers[-1].attn, SIZE
    tokens = probe(decoder)
    other = torch.cat([tokens[:, :-1], (tokens[:, -1:] + 1) % decoder.vocabulary], dim=1)

    def change(output: Tensor, _: Tensor) -> Tensor:
        if output.dim() == 3 and output.shape[1] > 1:
            output[:, :-1] += size * output[:, 1:]
        return output

    def added() -> list[Tensor]:
        values: list[Tensor] = []
        with hooks(*attn.watch(values.append)):
            for each in (other, tokens):
                decoder.hidden(each)
        return [value[:, :-1].double() for value in values]

    truth = added()[1].norm()
    wanted = sizes(rounding_of(decoder)[attn.label])[which]
    with planted(change, *(part.chain[-1] for part in attn.parts)):
        for _ in range(3):  # in proportion, but for rounding
            size *= wanted * truth / torch.sub(*added()).norm()
        assert float(torch.sub(*added()).norm() / truth) == pytest.approx(wanted, rel=0.3)
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
