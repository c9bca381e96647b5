"""Sampled texts against a slow sampler that reads each text anew, and against themselves."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.evaluation.traces.sampled_texts import SamplingSession
from prunescope.pipelines.metrics.sampling import flip_probability, gumbel_noise, noise_key, total_variation
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import DecodingSpec, GenerationSpec, ModelSpec, Prompt, Study
from prunescope.warehouse.quality.checks import violations
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES

STEPS, SAMPLES = 7, 3
STUDY = Study(
    name="s",
    models=(ModelSpec(name="tiny", source="x"),),
    recipes=(parse_recipe("dense"),),
    prompts=(
        Prompt(id="maths", kind="maths", text="2+2?", gold="4", answer_pattern=r"(\d)"),
        Prompt(id="open", kind="open", text="Why ⏎ 😀?"),
    ),
    generation=GenerationSpec(new_tokens=STEPS),
    decoding=DecodingSpec(temperature=1.3, top_p=0.9, samples=SAMPLES, seed=4),
)


def slow_text(decoder: Decoder, ids: tuple[int, ...], key: int) -> tuple[list[int], list[np.ndarray]]:
    """Sample token by token from a whole pass; return the tokens and the distribution of every step."""
    tokens, distributions = list[int](), list[np.ndarray]()
    for step in range(STEPS):
        state = decoder.hidden(torch.tensor([[*ids, *tokens]]))[0, -1:]
        logits = decoder.head.logits_of_state(state)[0].double().numpy() / 1.3
        p = np.exp(logits - logits.max())
        p /= p.sum()
        order = np.lexsort((np.arange(len(p)), -p))
        outside = order[int((p[order].cumsum() < 0.9).sum()) + 1 :]
        p[outside] = 0
        p /= p.sum()
        with np.errstate(divide="ignore"):
            tokens.append(int(np.argmax(np.log(p) + gumbel_noise(key, step, np.arange(len(p))))))
        distributions.append(p)
        if tokens[-1] in decoder.end_ids:
            break
    return tokens, distributions


def test_texts_and_distributions_are_those_of_a_slow_sampler(decoder: Decoder) -> None:
    variant = prune(decoder, parse_recipe("magnitude-50"))
    tables = SamplingSession(decoder, "tiny", STUDY).trace("magnitude-50", variant)
    for name, frame in tables.items():
        assert violations(TABLES[name], to_arrow(TABLES[name], frame)) == []
    texts, steps = tables["sampled_generations"], tables["sampled_steps"]
    assert len(texts) == 2 * SAMPLES
    flips = 0
    for prompt in tokenize_prompts(STUDY, decoder.tokenizer, decoder.context_length):
        for sample in range(SAMPLES):
            key = noise_key(4, prompt.prompt.id, sample)
            dense, p = slow_text(decoder, prompt.ids, key)
            with apply_variant(decoder, variant):
                pruned, q = slow_text(decoder, prompt.ids, key)
            own = (pl.col("prompt_id") == prompt.prompt.id) & (pl.col("sample") == sample)
            (text,) = texts.filter(own).to_dicts()
            rows = steps.filter(own).sort("step")
            assert text["token_ids"] == pruned
            parted = next(
                (step for step, pair in enumerate(zip(dense, pruned, strict=False)) if len(set(pair)) > 1), None
            )
            assert text["first_flip_step"] == parted
            flips += parted is not None
            count = len(dense) if parted is None else parted + 1
            assert rows["step"].to_list() == list(range(count))
            assert rows["token_id_dense"].to_list() == dense[:count]
            assert rows["token_id_pruned"].to_list() == pruned[:count]
            sides = list(zip(p, q, strict=False))[:count]
            np.testing.assert_allclose(rows["flip_probability"], [flip_probability(*side) for side in sides], atol=2e-5)
            np.testing.assert_allclose(rows["total_variation"], [total_variation(*side) for side in sides], atol=2e-5)
    assert flips, "no text parts, so that the test shows nothing"


def test_the_dense_model_never_parts_from_itself(decoder: Decoder) -> None:
    tables = SamplingSession(decoder, "tiny", STUDY).trace("dense", Variant())
    steps = tables["sampled_steps"]
    for name in ("flip_probability", "total_variation", "kl_dense_pruned_nats"):
        assert (steps[name] == 0).all()
    assert tables["sampled_generations"]["first_flip_step"].null_count() == 2 * SAMPLES
    texts = tables["sampled_generations"]["token_ids"].to_list()
    assert len(set(map(tuple, texts))) > 1, "samples differ"


def test_a_text_does_not_depend_on_its_batch(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = prune(decoder, parse_recipe("magnitude-50"))
    together = SamplingSession(decoder, "tiny", STUDY).trace("magnitude-50", variant)
    monkeypatch.setattr("prunescope.pipelines.evaluation.traces.decoding.BATCH_TEXTS", 2)
    apart = SamplingSession(decoder, "tiny", STUDY).trace("magnitude-50", variant)
    exact = ["prompt_id", "sample", "token_ids", "first_flip_step"]
    assert together["sampled_generations"].select(exact).equals(apart["sampled_generations"].select(exact))
    one, other = (tables["sampled_steps"]["flip_probability"] for tables in (together, apart))
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_broken_variant_is_refused(tiny_folder: Path) -> None:
    broken = load_decoder(tiny_folder)
    session = SamplingSession(broken, "tiny", STUDY)
    with torch.no_grad():
        broken.layers[1].mlp.mixers[0].down_proj.weight.fill_(float("inf"))
    with pytest.raises(ComputationError, match="tiny@other: NaN or infinite logits"):
        session.trace("other", Variant())
