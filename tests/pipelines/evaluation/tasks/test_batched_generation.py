"""Batched generation against transformers' own `generate`, one context at a time and without a cache."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.tasks import batched_generation
from prunescope.pipelines.evaluation.tasks.batched_generation import generate_greedy
from prunescope.pipelines.metrics.text_metrics import distinct_n, repeat_rate, repeat_rates
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.recorded import shapes_of_passes
from tests.pipelines.models.reference_models import copy_of, write_masks
from tests.tiny_models import save_tiny

CONTEXTS = ((5, 77, 9, 120, 5, 33, 250, 8, 8, 61), (4,), (99, 180, 41), tuple(range(7, 27)), (7, 8, 9), (200,))
# Rotary, windows shorter than a context, learned positions, ALiBi, convolutions; RecurrentGemma keeps states
# in its modules, where no row can leave; Bamba cannot use a cache.
ARCHITECTURES = [
    *("llama", "gemma2", "gpt2", "bloom", "lfm2", "recurrent_gemma", "bamba"),
    pytest.param("opt", marks=pytest.mark.exhaustive),  # as gpt2
]
NEW = 12


@pytest.fixture(scope="module")
def alone(decoder: Decoder) -> list[list[int]]:
    """Return the tiny Llama's tokens after each context, without an end token."""
    return [generated(decoder, context) for context in CONTEXTS]


@pytest.fixture(scope="module")
def endless(decoder: Decoder) -> Decoder:
    return replace(decoder, end_ids=frozenset())


def generated(decoder: Decoder, context: tuple[int, ...], new: int = NEW) -> list[int]:
    given = torch.tensor([context])
    model: Any = decoder.model
    model.generation_config.eos_token_id = None  # transformers takes the config's where the argument is None
    written = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False, use_cache=False
    )
    return written[0, len(context) :].tolist()


def read(decoder: Decoder, tokens: list[int] | tuple[int, ...]) -> str:
    return decoder.tokenizer.decode(list(tokens), skip_special_tokens=True)


@pytest.mark.third(0)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_answers_equal_those_of_generate(architecture: str, exact: Callable[[str], Decoder]) -> None:
    decoder = exact(architecture)
    expected = [generated(decoder, context) for context in CONTEXTS]
    ends = {expected[0][3], expected[3][6], expected[4][0]}
    decoder = replace(decoder, end_ids=frozenset(ends))
    found = generate_greedy(decoder, CONTEXTS, [()] * len(CONTEXTS), NEW, batch=4)
    for tokens, written in zip(expected, found, strict=True):
        length = next((step + 1 for step, token in enumerate(tokens) if token in ends), NEW)
        assert list(written.tokens) == tokens[:length]
        assert written.ended == (tokens[length - 1] in ends)
        assert written.text == read(decoder, tokens[: length - written.ended])
    assert found[1].tokens != found[5].tokens, "the contexts do not matter to this model"


@pytest.mark.third(1)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_prefix_changes_no_answer(
    architecture: str, exact: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_generation, "MIN_SHARED_PREFIX", 8)
    begin = tuple(range(30, 42))
    contexts = [begin + rest for rest in ((5, 77), (9, 120, 5, 33, 250), (8, 8, 61, 2, 4, 4, 7, 1), (99, 180, 41))]
    decoder = replace(exact(architecture), end_ids=frozenset())
    with shapes_of_passes(decoder) as shapes:
        found = generate_greedy(decoder, contexts, [()] * len(contexts), NEW)
    passes = [rows * tokens for rows, tokens in shapes]
    assert [list(written.tokens) for written in found] == [generated(decoder, context) for context in contexts]
    if architecture in {"llama", "gpt2", "opt", "bloom"}:
        assert 4 * 8 in passes, "the beginning passed with every context"
        assert max(passes) < 4 * (12 + 8)


def test_an_applied_variant_writes_the_text_of_a_pruned_copy(endless: Decoder, alone: list[list[int]]) -> None:
    variant = prune(endless, parse_recipe("magnitude-50"))
    copied = copy_of(endless)
    write_masks(copied, variant, set(variant.masks))
    with apply_variant(endless, variant):
        found = [list(written.tokens) for written in generate_greedy(endless, CONTEXTS, [()] * 6, NEW)]
    assert found == [generated(copied, context) for context in CONTEXTS] != alone
    assert [list(written.tokens) for written in generate_greedy(endless, CONTEXTS, [()] * 6, NEW)] == alone


@pytest.mark.parametrize("length", [2, 4])
def test_a_stop_string_counts_at_any_position_and_ends_the_text(endless: Decoder, length: int) -> None:
    context, limit = CONTEXTS[1], 40
    tokens = generated(endless, context, limit)
    whole = read(endless, tokens)  # tokens of several letters, halves of characters, and special ones without a letter
    stops = [whole[start : start + length] for start in range(len(whole) - length)]
    stops = sorted({stop for stop in stops if "\ufffd" not in stop})
    found = generate_greedy(endless, [context] * len(stops), [("never", stop, "") for stop in stops], limit)
    across = 0
    for stop, written in zip(stops, found, strict=True):
        text = whole[: whole.index(stop)]
        with_special = [endless.tokenizer.decode(tokens[:n]) for n in range(1, limit + 1)]
        steps = next((n for n, seen in enumerate(with_special, start=1) if stop in seen), limit)
        assert (written.text, written.ended, list(written.tokens)) == (text, True, tokens[:steps])
        kept = min(n for n in range(steps + 1) if read(endless, tokens[:n]).startswith(text))
        assert written.kept == kept
        across += kept < steps - 1
    assert len(stops) > 10
    assert across, "no stop string took several tokens"


def test_the_first_of_several_stop_strings_cuts_and_a_special_token_may_be_one(endless: Decoder) -> None:
    context = CONTEXTS[1]
    tokens = generated(endless, context, 40)
    special = endless.tokenizer.convert_tokens_to_ids("<|pad|>")
    assert special in tokens
    (written,) = generate_greedy(endless, [context], [("<|pad|>",)], 40)
    assert list(written.tokens) == tokens[: tokens.index(special) + 1]
    assert written.text == read(endless, written.tokens)
    assert written.ended
    text = read(endless, tokens)
    early, late = text[3:6], text[8:10]
    assert text.index(early) == 3 < text.index(late)
    for stops in ((early, late), (late, early)):
        (written,) = generate_greedy(endless, [context], [stops], 40)
        assert written.text == text[:3]


def test_collapse_is_measured_without_the_stop_string(decoder: Decoder, alone: list[list[int]]) -> None:
    tokens = alone[0]
    with_end = replace(decoder, end_ids=frozenset({tokens[6]}))
    assert tokens.index(tokens[6]) == 4  # the loop's token: 6, 6, 6
    (written,) = generate_greedy(with_end, CONTEXTS[:1], [()], NEW)
    assert written.tokens == tuple(tokens[:5])
    assert written.kept == 4
    assert distinct_n(written.tokens[: written.kept], 2) == 1
    (looping,) = generate_greedy(replace(decoder, end_ids=frozenset()), CONTEXTS[:1], [()], NEW)
    assert looping.kept == len(tokens)
    assert repeat_rate(looping.tokens) == repeat_rates(tokens)[-1] > 0
    (nothing,) = generate_greedy(replace(decoder, end_ids=frozenset({tokens[0]})), CONTEXTS[:1], [()], NEW)
    assert (nothing.text, nothing.kept, nothing.ended) == ("", 0, True)
    assert (distinct_n((), 2), repeat_rate(())) == (1, 0)


def test_a_long_context_is_cut_at_its_start_and_an_empty_one_starts_with_eos(endless: Decoder) -> None:
    room = endless.context_length - NEW
    long = tuple(range(3, 103)) * 2
    found = generate_greedy(endless, [long, (), long[-room:]], [()] * 3, NEW)
    assert list(found[0].tokens) == generated(endless, long[-room:]) == list(found[2].tokens)
    assert list(found[1].tokens) == generated(endless, (endless.tokenizer.eos_token_id,))
    with pytest.raises(InputError, match=f"max_new_tokens {endless.context_length}.*choose fewer"):
        generate_greedy(endless, [(4,)], [()], endless.context_length)
    assert generate_greedy(endless, [], [], NEW) == []


def test_an_empty_context_without_a_start_token_is_refused(endless: Decoder) -> None:
    tokenizer = copy.deepcopy(endless.tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="a context is empty"):
        generate_greedy(replace(endless, tokenizer=tokenizer), [(4,), ()], [()] * 2, NEW)


def test_finished_rows_leave_and_a_batch_respects_its_token_limit(
    decoder: Decoder, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = replace(decoder, end_ids=frozenset({alone[0][3], alone[1][6]}))
    shapes: list[tuple[int, ...]] = []

    def run(batch: int) -> list[tuple[int, ...]]:
        with shapes_of_passes(decoder) as seen:
            found = generate_greedy(decoder, CONTEXTS, [()] * 6, NEW, batch, reuses_prefix=False)
        shapes[:] = seen
        return [written.tokens for written in found]

    together = run(16)
    lengths = [len(tokens) for tokens in together]
    assert shapes == [(6, 20), *((sum(length > step for length in lengths), 1) for step in range(1, NEW))]
    assert min(lengths) < NEW
    assert run(2) == together
    assert max(shapes)[0] == 2
    # Beyond the first few, padding must not be longer than half an answer.
    with monkeypatch.context() as patch:
        patch.setattr(batched_generation, "FEW_CONTEXTS", 1)
        assert run(16) == together
    assert [shape for shape in shapes if shape[1] > 1] == [(1, 20), (1, 10), (4, 3)]
    monkeypatch.setattr(batched_generation, "MAX_TOKENS", 3 * (20 + NEW) - 1)
    assert run(16) == together
    assert shapes[0] == (2, 20)
    monkeypatch.setattr(batched_generation, "MAX_TOKENS", 1)
    assert run(16) == together
    assert max(shapes)[0] == 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_contexts_take_the_places_of_finished_ones(
    architecture: str, exact: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = exact(architecture)
    begin = tuple(range(30, 42))
    contexts = [*CONTEXTS, *(begin + context for context in CONTEXTS), *CONTEXTS[::-1]]
    expected = [generated(decoder, context) for context in contexts]
    ends = {expected[0][1], expected[3][2], expected[8][6]}
    decoder = replace(decoder, end_ids=frozenset(ends))
    monkeypatch.setattr(batched_generation, "MIN_SHARED_PREFIX", 8)
    monkeypatch.setattr(batched_generation, "FEW_CONTEXTS", 2)
    shapes: list[tuple[int, ...]] = []

    def run(batch: int) -> list[list[int]]:
        with shapes_of_passes(decoder) as seen:
            found = generate_greedy(decoder, contexts, [()] * len(contexts), NEW, batch)
        shapes[:] = seen
        return [list(each.tokens) for each in found]

    lengths = [next((n for n, token in enumerate(own, 1) if token in ends), NEW) for own in expected]
    assert len(set(lengths)) > 2
    for batch in (2, 4, 7):
        assert run(batch) == [own[:length] for own, length in zip(expected, lengths, strict=True)]
        assert max(shapes)[0] <= batch
    filled = len(shapes)
    monkeypatch.setattr(batched_generation, "_fill", lambda *_: None)
    assert run(7) == [own[:length] for own, length in zip(expected, lengths, strict=True)]
    assert filled < len(shapes), "no context joined a running batch"


def test_nan_logits_are_an_error(tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "damaged"))
    decoder.layers[1].mlp.matrices["model.layers.1.mlp.down_proj"].parameter.data[3, 5] = torch.nan
    with pytest.raises(ComputationError, match="NaN or infinite logits"):
        generate_greedy(decoder, CONTEXTS, [()] * 6, NEW)
