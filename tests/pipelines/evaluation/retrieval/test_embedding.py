"""Embeddings against one text at a time through plain transformers, on awkward texts."""

from dataclasses import replace

import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.retrieval import embedding
from prunescope.pipelines.evaluation.retrieval.embedding import batches, embed, require_fits, tokens_of
from prunescope.pipelines.evaluation.retrieval.pooling import Pooling, pooled
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec

TEXTS = [
    "The if statement",
    "",
    "naïve 文\u2028\x00 🙂 <|end|> [SEP]",
    "is used for conditional execution " * 40,
    "if",
    "The if statement",
]


def one_by_one(decoder: Decoder, ids: list[tuple[int, ...]], pooling: Pooling) -> torch.Tensor:
    """Embed each text alone, without padding, with a loop over its states."""
    found = []
    for each in ids:
        with torch.inference_mode():
            states = decoder.trunk(input_ids=torch.tensor([each])).last_hidden_state[0].double()
        total = states[-1]
        if pooling == "mean":
            total = torch.zeros_like(total)
            for state in states:
                total = total + state
            total = total / len(states)
        found.append(total.float())
    return torch.stack(found)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_and_batches_change_nothing(either: Decoder, pooling: Pooling, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tokens_of(TEXTS, either.tokenizer, 60, pooling)
    truth = one_by_one(either, ids, pooling)
    for most in (64, 2, 1):
        monkeypatch.setattr(embedding, "BATCH_TEXTS", most)
        found = embed(either, ids, pooling)
        assert found.dtype == torch.float32
        assert torch.allclose(found, truth, rtol=1e-4, atol=1e-5)
        assert torch.equal(found[0], found[5])


def test_padding_is_never_read() -> None:
    states = torch.randn(2, 3, 4)
    states[0, 2], states[1, 1:] = torch.nan, torch.inf
    lengths = torch.tensor([2, 1])
    assert torch.equal(pooled(states, lengths, "last"), torch.stack([states[0, 1], states[1, 0]]).double())
    mean = (states[0, 0].double() + states[0, 1].double()) / 2
    assert torch.allclose(pooled(states, lengths, "mean"), torch.stack([mean, states[1, 0].double()]), rtol=1e-14)


def test_every_text_is_in_one_batch_and_batches_respect_the_limit() -> None:
    lengths = [7, 3000, 5, 2000, 1, *[9] * 100, 9000]
    found = list(batches(lengths, 64, 4096))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= 64 and (len(batch) == 1 or len(batch) * lengths[batch[-1]] <= 4096) for batch in found)
    assert [lengths[index] for batch in found for index in batch] == sorted(lengths)


def test_last_pooling_reads_the_end_token_also_of_cut_texts(causal: Decoder) -> None:
    ids = tokens_of(TEXTS, causal.tokenizer, 8, "last")
    end = causal.tokenizer.eos_token_id
    assert all(each[-1] == end and len(each) <= 8 for each in ids)
    assert ids[1] == (end,)
    plain = causal.tokenizer(TEXTS[3]).input_ids
    assert ids[3] == (*plain[:7], end)
    assert tokens_of(["if<|end|>"], causal.tokenizer, 8, "last") == tokens_of(["if"], causal.tokenizer, 8, "last")


def test_mean_pooling_adds_a_token_only_to_an_empty_text(causal: Decoder, encoder: Decoder) -> None:
    empty, word = tokens_of(["", "if"], causal.tokenizer, 8, "mean")
    assert empty == (causal.tokenizer.eos_token_id,)
    assert list(word) == causal.tokenizer("if").input_ids
    # BERT puts its own two tokens around every text.
    assert tokens_of(["", "if " * 50], encoder.tokenizer, 8, "mean")[0] == (2, 3)
    assert len(tokens_of(["if " * 50], encoder.tokenizer, 8, "mean")[0]) == 8


def test_last_pooling_without_an_end_token_is_refused(causal: Decoder) -> None:
    class Endless:
        eos_token_id = sep_token_id = None

        def __call__(self, texts: list[str], **_: object) -> object:
            return causal.tokenizer(texts)

    assert tokens_of(["if"], Endless(), 8, "mean")
    with pytest.raises(InputError, match="no end token"):
        tokens_of(["if"], Endless(), 8, "last")


def test_texts_longer_than_the_models_context_are_refused_by_their_key() -> None:
    with pytest.raises(
        InputError, match=r"retrieval 'python-help': `max_length` 256 is over the model's context of 128"
    ):
        require_fits(RetrievalSpec(name="python-help"), 128)


def test_a_bidirectional_model_affected_by_padding_is_refused(encoder: Decoder) -> None:
    with pytest.raises(InputError, match="padding changes the states"):
        embed(replace(encoder, can_pad=False), [(2, 3)], "mean")


def test_a_nan_embedding_is_an_error(causal: Decoder) -> None:
    weight = next(causal.trunk.parameters())
    before = weight.data
    weight.data = torch.full_like(before, torch.nan)
    try:
        with pytest.raises(ComputationError, match="NaN or infinite"):
            embed(causal, [(1, 2)], "mean")
    finally:
        weight.data = before
