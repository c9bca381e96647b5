"""Tests that dropped sublayers run no module, and that the result equals one with zeros in their place."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from prunescope.pipelines.models import skipping
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.weight_matrices import Products
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from tests.tiny_models import save_tiny

# Serial and parallel, one norm for both sublayers or one each, sandwich norms and norms after sublayers only, windows,
# a flat MLP, a residual that a module adds itself, two mixers side by side, recurrences, experts that return tuples.
FORMS = (
    *("llama", "phi", "gpt_neox", "gemma3_text", "olmo2", "opt", "bloom", "gpt2", "cohere2"),
    *("falcon_h1", "jamba", "qwen3_next", "llama4_text", "lfm2"),
)
TOKENS = torch.tensor([[5, 77, 9, 120, 5, 33, 250, 8, 8, 61], [61, 2, 17, 4, 99, 180, 41, 7, 7, 210]])
DROPS = (("attn.0",), ("mlp.1", "attn.2"), ("attn.0", "mlp.0", "mlp.2"), ("attn.0", "attn.1", "attn.2"))


@pytest.fixture(scope="module", params=FORMS)
def decoder(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder(request.param)


def close(found: Tensor, truth: Tensor) -> None:
    distance = (found.double() - truth.double()).norm(dim=-1).max()
    assert distance <= 2e-5 * truth.double().norm(dim=-1).max()


def logits(decoder: Decoder, tokens: Tensor = TOKENS) -> Tensor:
    with torch.inference_mode():
        return decoder.model(input_ids=tokens, use_cache=False).logits


def silent(decoder: Decoder, labels: Collection[str], tokens: Tensor = TOKENS) -> Tensor:
    with decoder.without(labels, skips=False):
        return logits(decoder, tokens)


@pytest.mark.third(1)
def test_skipped_sublayers_equal_silent_ones(decoder: Decoder) -> None:
    dense = logits(decoder)
    for labels in DROPS:
        truth = silent(decoder, labels)
        with apply_variant(decoder, Variant(dropped=labels)):
            assert torch.equal(logits(decoder), truth)
        assert not torch.allclose(dense, truth, rtol=1e-3)
    assert torch.equal(logits(decoder), dense)


def test_no_matrix_of_a_skipped_sublayer_is_multiplied(decoder: Decoder) -> None:
    def products(labels: Collection[str], *, skips: bool) -> int:
        own = {m.address for each in decoder.sublayers if each.label in labels for m in each.matrices.values()}
        seen: list[int] = []

        def see(_: Tensor, operand: Tensor) -> None:
            seen.extend(each.data_ptr() for each in (operand if operand.dim() == 3 else [operand]))

        with apply_variant(decoder, Variant(dropped=tuple(labels)), skips=skips), Products(see):
            decoder.hidden(TOKENS)
        return sum(address in own for address in seen)

    for labels in DROPS:
        assert products(labels, skips=False) >= 2 * len(labels)
        assert products(labels, skips=True) == 0


def test_neither_a_skipped_sublayer_nor_its_norm_is_read(decoder: Decoder) -> None:
    assert decoder.skips is not None
    for labels in DROPS:
        gone = [each for each in decoder.sublayers if each.label in labels]
        modules = [*(mixer for each in gone for mixer in each.mixers)]
        modules += [norm for label, norm in decoder.skips.norms.items() if label in labels]
        with apply_variant(decoder, Variant(dropped=labels)):
            truth = logits(decoder)
        with ruined({parameter for module in modules for parameter in module.parameters()}):
            assert logits(decoder).isnan().all()
            with apply_variant(decoder, Variant(dropped=labels)):
                assert torch.equal(logits(decoder), truth)


@contextmanager
def ruined(parameters: Collection[torch.nn.Parameter]) -> Iterator[None]:
    """Temporarily set parameters to NaN, so that every result computed from them is NaN."""
    kept = [(parameter, parameter.data) for parameter in parameters]
    for parameter, data in kept:
        parameter.data = torch.full_like(data, torch.nan)
    yield
    for parameter, data in kept:
        parameter.data = data


@pytest.mark.third(2)
def test_skipping_works_with_cache_and_padding(decoder: Decoder) -> None:
    """Compare on prompts of 10 and 6 tokens, the shorter one padded on the left, and four more tokens one by one."""
    short = TOKENS[1:, :6]
    more = torch.tensor([[3, 71, 8, 90], [44, 5, 201, 9]])
    padded = torch.cat([TOKENS[:1], torch.nn.functional.pad(short, (4, 0))])
    real = torch.ones(2, 14, dtype=torch.long)
    real[1, :4] = 0
    for labels in DROPS:
        with decoder.without(labels, skips=False):
            alone = [
                decoder.hidden(torch.cat([TOKENS[:1], more[:1]], dim=1)),
                decoder.hidden(torch.cat([short, more[1:]], dim=1)),
            ]
        cache = decoder.new_cache()
        with apply_variant(decoder, Variant(dropped=labels)):
            chunks = {10: padded} | {11 + step: more[:, step : step + 1] for step in range(4)}
            states = torch.cat([decoder.hidden(chunk, cache, real[:, :end]) for end, chunk in chunks.items()], dim=1)
        close(states[0], alone[0])
        close(states[1, 4:], alone[1])


@pytest.mark.parametrize("form", ["gemma3_text", "gpt2"])
def test_generate_uses_only_the_remaining_sublayers(form: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder(form)
    model = cast(Any, decoder.model)
    for labels in DROPS:
        with apply_variant(decoder, Variant(dropped=labels)), torch.inference_mode():
            cache = DynamicCache()
            model(input_ids=TOKENS, cache=cache, use_cache=True)
            assert [cache.get_seq_length(layer) for layer in range(3)] == [10, 10, 10]
            written = model.generate(TOKENS[:1], max_new_tokens=4, do_sample=False, eos_token_id=None)
        for end in range(10, 14):
            assert written[0, end] == silent(decoder, labels, written[:, :end])[0, -1].argmax()


def test_unproved_skips_run_and_add_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use caches that do not grow and so give wrong positions, which the check at load time detects."""
    monkeypatch.setattr(skipping, "_grow", lambda *call: None)
    decoder = load_decoder(save_tiny(tmp_path))
    assert decoder.skips is None
    with apply_variant(decoder, Variant(dropped=("attn.0",))):
        assert torch.equal(logits(decoder), silent(decoder, ["attn.0"]))
