"""Tables of the output against slow computations row by row, ties included."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt
from prunescope.pipelines.evaluation.traces.decoding import (
    DensePrunedPair,
    _batches,
    _record_last_position,
    first_tokens,
    generation_row,
    step_rows,
    top_rows,
)
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.studies import Prompt
from tests.greedy_decoding import decode_greedily

STEPS = 5


def pair_of(decoder: Decoder) -> DensePrunedPair:
    generator = torch.Generator().manual_seed(3)
    streams, shifts = torch.randn(2, STEPS, 64, generator=generator)
    prompt = TokenizedPrompt(Prompt(id="p", kind="open", text="?"), (5, 6, 7), ())
    return DensePrunedPair(prompt, "free_running", streams, shifts, (8, 8, 8, 8, 8), (8, 9, 8, 9, 8))


def slow_top_rows(decoder: Decoder, logits: dict[str, Tensor], count: int) -> list[dict[str, object]]:
    rows = []
    for side, values in logits.items():
        for step in range(len(values)):
            ordered = sorted(range(values.shape[1]), key=lambda token: (-float(values[step, token]), token))
            for rank, token in enumerate(ordered[:count], start=1):
                row = {"step": step, "side": side, "rank": rank, "token_id": token}
                row["token_text"] = decoder.tokenizer.decode([token])
                for other, theirs in logits.items():
                    row[f"logit_{other}"] = float(theirs[step, token])
                    row[f"probability_{other}"] = float(torch.softmax(theirs[step].double(), dim=-1)[token])
                rows.append(row | {"prompt_id": "p", "trajectory": "free_running"})
    return rows


@pytest.mark.parametrize("at_once", [2, 64])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("vocabulary", [7, 300])
def test_top_rows_equal_a_sort_of_the_whole_vocabulary(
    decoder: Decoder, vocabulary: int, is_tied: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.pipelines.evaluation.traces.decoding.STEPS_AT_ONCE", at_once)
    weight = torch.randn(vocabulary, 64, generator=torch.Generator().manual_seed(1))
    pair = pair_of(decoder)
    if is_tied:  # small whole numbers: products are exact, and many are equal
        weight = weight.round().clamp(-1, 1)
        pair = replace(pair, streams=pair.streams.round(), shifts=pair.shifts.round())
    decoder = replace(decoder, output=replace(decoder.output, head=OutputHead(weight)))
    with torch.inference_mode():
        states, moves = decoder.head.lens(pair.streams, pair.shifts, "normed")
        dense = decoder.head.logits_of_state(states)
        logits = {"dense": dense, "pruned": dense + decoder.head.shift(states, moves)}
    found = top_rows(decoder, [pair], 10).sort("side", "step", "rank")
    expected = pl.DataFrame(slow_top_rows(decoder, logits, 10)).sort("side", "step", "rank")
    exact = [name for name in expected.columns if not name.startswith(("probability", "logit"))]
    assert found.select(exact).equals(expected.select(exact))
    for name in (f"{what}_{side}" for what in ("probability", "logit") for side in logits):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)
    best = expected.filter(side="pruned", rank=1).sort("step")["token_id"].to_list()
    several = [pair, replace(pair, streams=pair.streams[:2], shifts=pair.shifts[:2]), pair]
    tokens = first_tokens(several, top_rows(decoder, several, 10), "pruned")
    assert tokens == [tuple(best), tuple(best[:2]), tuple(best)]


def test_step_rows_repeat_the_tokens_at_every_temperature_after_the_prompt(decoder: Decoder) -> None:
    rows = step_rows(decoder, [pair_of(decoder)], (0.5, 1.0))
    assert rows["temperature"].to_list() == [0.5] * STEPS + [1.0] * STEPS
    assert rows["position"].to_list() == [2, 3, 4, 5, 6] * 2
    text = {token: decoder.tokenizer.decode([token]) for token in (8, 9)}
    assert rows["token_text_pruned"].to_list() == [text[8], text[9]] * 2 + [text[8]] + [text[8], text[9]] * 2 + [
        text[8]
    ]
    np.testing.assert_allclose(rows["repeat_rate_dense"][:STEPS], [0, 0, 0, 1 / 2, 2 / 3], rtol=1e-6)
    alone = [step_rows(decoder, [pair_of(decoder)], (temperature,)) for temperature in (0.5, 1.0)]
    assert rows.equals(pl.concat(alone))


@pytest.mark.parametrize(
    ("gold", "pattern", "is_correct"),
    [("7", r"(7)", True), ("7", r"(8)", False), ("7", None, None), (None, r"(7)", None)],
)
def test_a_text_is_graded_where_gold_and_pattern_are_known(
    decoder: Decoder, gold: str | None, pattern: str | None, is_correct: bool | None
) -> None:
    prompt = Prompt(id="p", kind="maths", text="?", gold=gold, answer_pattern=pattern)
    tokens = tuple(decoder.tokenizer("7", add_special_tokens=False).input_ids)
    row = generation_row(decoder, TokenizedPrompt(prompt, (5, 6), ()), tokens, tokens)
    assert row["is_correct"] is is_correct


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: several split the rows of a product unevenly, and equal rows then differ by rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_equal_prompts_decode_bit_equal_and_modules_are_restored(decoder: Decoder) -> None:
    prompt = (33, 250, 8, 61)
    first, *others = decode_greedily(decoder, [prompt] * 5, 6)
    again = decode_greedily(decoder, [prompt] * 5, 6)
    assert all(other.tokens == first.tokens and torch.equal(other.streams, first.streams) for other in others)
    assert all(torch.equal(a.streams, b.streams) for a, b in zip(again, [first, *others], strict=True))
    assert not any("forward" in vars(module) for module in decoder.model.modules())


@pytest.mark.parametrize(("split", "copies", "expected"), [(1, 2, 64), (3, 2, 20), (3, 1, 21), (32, 3, 2), (64, 2, 1)])
def test_the_texts_of_a_prompt_are_in_one_batch(decoder: Decoder, split: int, copies: int, expected: int) -> None:
    batches = _batches(replace(decoder, split=split), [5] * 64, copies)
    assert len(batches[0]) == expected
    assert sorted(text for batch in batches for text in batch) == list(range(64 * copies))


def test_a_batch_has_prompts_of_similar_length(decoder: Decoder) -> None:
    batches = _batches(decoder, [10, 50] * 20, 2)
    lengths = [[(10, 50)[text // 2 % 2] for text in batch] for batch in batches]
    assert [(each.count(10), each.count(50)) for each in lengths] == [(40, 24), (0, 16)]


@pytest.mark.parametrize(
    ("beginning", "most", "expected"),
    [
        (tuple(range(10, 50)), 0, [(1, 39), (1, 1), (2, 2), (1, 5)]),
        (tuple(range(10, 50)), 64, [(1, 39), (4, 5)]),
        (tuple(range(10, 31)), 64, [(4, 25)]),  # 3 * 20 tokens are not worth a pass
        ((), 0, [(2, 1), (1, 4)]),
        ((7,), 2, [(3, 2), (1, 5)]),
    ],
)
def test_what_all_prompts_begin_with_is_read_once(
    decoder: Decoder,
    beginning: tuple[int, ...],
    most: int,
    expected: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prunescope.pipelines.evaluation.tasks.batched_generation.MAX_PADDING", most)
    ends = [(4, 5), (3,), (4, 5, 6, 7, 8), (4, 9)] if beginning else [(4, 5), (3, 8), (4, 5, 6, 7, 8)]
    prompts = [beginning + end for end in ends]
    alone = [decode_greedily(decoder, [prompt], 4)[0] for prompt in prompts]
    hidden, passes = Decoder.hidden, list[tuple[int, ...]]()

    def counted(self: Decoder, tokens: Tensor, *args: object) -> Tensor:
        passes.append(tuple(tokens.shape))
        return hidden(self, tokens, *args)

    monkeypatch.setattr(Decoder, "hidden", counted)
    for found, own in zip(decode_greedily(decoder, prompts, 4), alone, strict=True):
        assert found.tokens == own.tokens
        np.testing.assert_allclose(found.streams, own.streams, rtol=1e-3, atol=1e-4)
    assert passes == [*expected, *[(len(prompts), 1)] * 4]


def test_states_of_a_step_hold_no_other_token_of_the_prompt(decoder: Decoder) -> None:
    last: dict[str, Tensor] = {}
    with hooks(*_record_last_position(decoder, last)):
        decoder.hidden(torch.arange(9)[None])
    assert last.keys() == {"embedded", "stream", *(sublayer.label for sublayer in decoder.sublayers)}
    assert all(state.untyped_storage().nbytes() == state.nbytes for state in last.values())
