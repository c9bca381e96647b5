"""Tests of drafts: their tokens, their length, and the unchanged output."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.tasks import batched_generation
from prunescope.pipelines.evaluation.tasks.batched_generation import can_reuse_prefix, generate_greedy
from prunescope.pipelines.evaluation.tasks.speculative_decoding import MAX_DRAFT, DraftProposer, best_draft_length
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.models.module_calls import hooks
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from tests.pipelines.models.recorded import shapes_of_passes
from tests.tiny_models import DECODERS, save_tiny

CONTEXTS = ((5, 77, 9, 120, 5, 33, 250, 8, 8, 61), (4, 9), (99, 180, 41), tuple(range(7, 27)))
NEW = 40


def passes_of(proposer: DraftProposer, text: Sequence[int], most: int = 100) -> list[int]:
    """Return the number of tokens that each pass writes when a proposer drafts the text."""
    found, written = [], 0
    while written < len(text):
        guess = proposer.propose(min(most, len(text) - written - 1))
        assert len(guess) <= MAX_DRAFT
        right = next((n for n, token in enumerate(guess) if token != text[written + n]), len(guess))
        proposer.observe(text[written : written + right + 1])
        found.append(right + 1)
        written += right + 1
    assert written == len(text)
    return found


def test_drafts_of_a_known_text_double_in_length() -> None:
    text = list(range(100, 160))
    assert passes_of(DraftProposer((1, 2, 3), text), text) == [1, 2, 4, 8, 16, 17, 12]


def test_drafts_continue_loops_of_any_length() -> None:
    for loop in ([7], [7, 8], [7, 8, 9, 10, 11]):
        text = (loop * 60)[:60]
        passes = passes_of(DraftProposer((1, 2, 3), ()), text)
        assert len(passes) <= len(loop) + 10, loop
        assert max(passes) == MAX_DRAFT + 1


def test_a_text_without_repetition_has_no_drafts() -> None:
    proposer = DraftProposer((), ())
    assert proposer.propose(5) == []
    assert passes_of(DraftProposer(range(50), ()), range(100, 160)) == [1] * 60
    assert passes_of(DraftProposer((1, 2, 3), range(500, 560)), range(100, 160)) == [1] * 60


def test_a_wrong_draft_resets_the_length_and_the_text_is_found_again() -> None:
    other = list(range(100, 140))
    text = [*other[:10], 1, *other[11:]]  # one token is another
    passes = passes_of(DraftProposer((1, 2, 3), other), text)
    assert passes[:4] == [1, 2, 4, 4]  # three of the last are right, then comes the right token
    assert passes[4:8] == [1, 1, 1, 2]  # the places agree again once three tokens do
    assert max(passes[9:]) >= 8
    longer = [*other[:10], 1, 2, *other[10:]]  # what follows has moved
    assert passes_of(DraftProposer((1, 2, 3), other), longer)[-1] > 8


def test_drafts_respect_the_remaining_limit() -> None:
    proposer = DraftProposer((), list(range(30)))
    proposer.propose(30)
    proposer.observe([0])
    proposer.propose(30)
    proposer.observe([1, 2])
    assert proposer.propose(2) == [3, 4]
    assert proposer.propose(0) == proposer.propose(-1) == []


def test_draft_lengths_are_limited_by_the_padding_of_other_rows() -> None:
    assert best_draft_length([]) == best_draft_length([[]]) == best_draft_length([[], []]) == 0
    assert best_draft_length([[1] * 16]) == 16
    assert best_draft_length([[1] * 16] * 4) == 16
    assert best_draft_length([[1] * 8, [1] * 2, [1] * 8]) == 8
    assert best_draft_length([[1], *[[]] * 15]) == 0  # fifteen rows of padding for one token


@pytest.fixture(scope="module")
def decoder(tiny_folder: Path) -> Decoder:
    return replace(load_decoder(tiny_folder), end_ids=frozenset())


def alone(decoder: Decoder, context: Sequence[int]) -> list[int]:
    """Decode token by token, without a cache."""
    tokens = list(context)
    for _ in range(NEW):
        state = decoder.hidden(torch.tensor([tokens]))[0, -1:]
        tokens.append(int(decoder.head.logits_of_state(state).argmax()))
    return tokens[len(context) :]


@pytest.mark.third(0)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_right_wrong_and_half_right_drafts_change_no_text(architecture: str, exact: Callable[[str], Decoder]) -> None:
    decoder = replace(exact(architecture), end_ids=frozenset())
    wanted = [alone(decoder, context) for context in CONTEXTS]
    half = [[*text[:9], (text[9] + 1) % 300, *text[10:]] for text in wanted]
    wrong = [[(token + 1) % 300 for token in text] for text in wanted]
    mixed = [wanted[0], half[1], wrong[2], half[3][:12]]
    together = [(others, 4) for others in (wanted, half, wrong, mixed, wanted[::-1], None)]
    for others, batch in (*together, (mixed, 1)):
        found = generate_greedy(decoder, CONTEXTS, [()] * 4, NEW, batch, others)
        assert [list(each.tokens) for each in found] == wanted


def test_a_known_text_takes_few_passes_and_stops_as_usual(decoder: Decoder) -> None:
    wanted = [alone(decoder, context) for context in CONTEXTS]
    assert can_reuse_prefix(decoder)
    with shapes_of_passes(decoder) as shapes:
        generate_greedy(decoder, CONTEXTS, [()] * 4, NEW, others=wanted, reuses_prefix=True)
    assert len(shapes) <= 8
    text = decoder.tokenizer.decode(wanted[0])
    stop, end = text[len(text) // 2 :][:3], wanted[3][25]
    ending = replace(decoder, end_ids=frozenset({end}))
    arguments = (CONTEXTS, [(stop,), (), (), ()], NEW)
    slow = generate_greedy(ending, *arguments, reuses_prefix=False)
    assert generate_greedy(ending, *arguments, others=wanted, reuses_prefix=True) == slow
    assert 0 < len(slow[0].tokens) < NEW
    assert len({len(each.tokens) for each in slow}) > 1


def test_wrong_dense_drafts_do_not_change_a_variants_text(decoder: Decoder) -> None:
    dense = [alone(decoder, context) for context in CONTEXTS]
    with apply_variant(decoder, prune(decoder, parse_recipe("magnitude-50"))):
        wanted = [alone(decoder, context) for context in CONTEXTS]
        found = generate_greedy(decoder, CONTEXTS, [()] * 4, NEW, others=dense)
    assert [list(each.tokens) for each in found] == wanted != dense


def test_a_wrong_draft_with_nan_logits_changes_no_text(decoder: Decoder) -> None:
    wanted = [alone(decoder, context) for context in CONTEXTS]
    broken = next(token for token in range(1, 300) if all(token not in text for text in (*wanted, *CONTEXTS)))
    others = [wanted[0], *([*text[:9], broken, *text[10:]] for text in wanted[1:])]
    read: list[Tensor] = []

    def damage(_: Any, given: tuple[Tensor], states: Tensor) -> Tensor:
        read.append(is_broken := given[0] == broken)
        return states.masked_fill(is_broken[..., None], torch.nan)

    model: Any = decoder.model
    with hooks(model.get_input_embeddings().register_forward_hook(damage)):
        found = generate_greedy(decoder, CONTEXTS, [()] * 4, NEW, others=others, reuses_prefix=True)
        assert [list(each.tokens) for each in found] == wanted
        assert sum(bool(each.any()) for each in read) == 1, "it was read never, or guessed again"
        with pytest.raises(ComputationError, match="NaN or infinite logits"):
            generate_greedy(decoder, [(broken, 4)], [()], NEW, others=[wanted[0]], reuses_prefix=True)


def test_logits_in_memory_are_limited_to_a_block(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [alone(decoder, context) for context in CONTEXTS]
    rows: list[int] = []

    def count(head: OutputHead, states: Tensor) -> Tensor:
        rows.append(len(states))
        return head.capped(head.raw(states))

    monkeypatch.setattr(batched_generation, "BLOCK_ROWS", 6)
    monkeypatch.setattr(OutputHead, "logits_of_state", count)
    found = generate_greedy(decoder, CONTEXTS, [()] * 4, NEW, others=wanted)
    assert [list(each.tokens) for each in found] == wanted
    assert max(rows) == 6


def test_no_drafts_where_padding_inside_a_text_changes_it(tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder("mistral")  # a window of few tokens
    decoder = replace(decoder, end_ids=frozenset())
    assert not can_reuse_prefix(decoder)
    with shapes_of_passes(decoder) as shapes:
        generate_greedy(decoder, CONTEXTS[:1], [()], 20, others=[alone(decoder, CONTEXTS[0])])
    assert {shape[1] for shape in shapes[-19:]} == {1}


ROPE = {"rope_theta": 10_000.0, "rope_type": "dynamic", "factor": 2.0}
NEO = {
    "vocab_size": 300, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128,
    "attention_types": [[["global", "local"], 1]], "window_size": 32,
}  # fmt: skip


@pytest.mark.parametrize(("architecture", "changes"), [("gpt_neo", {}), ("llama", {"rope_parameters": ROPE})])
def test_no_drafts_where_masks_or_rotations_depend_on_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, changes: dict[str, Any]
) -> None:
    """Refuse to reuse a prefix: GPT-Neo's cache shows no window, and two short texts do not exceed it."""
    monkeypatch.setitem(DECODERS, "gpt_neo", NEO)
    assert not can_reuse_prefix(load_decoder(save_tiny(tmp_path / "model", architecture, **changes)))
