"""Sampled texts against a slow sampler that reads each text anew, and against themselves."""

import copy
from collections import Counter
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chisquare
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

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
from prunescope.pipelines.studies import Study
from prunescope.warehouse.quality.checks import violations
from prunescope.warehouse.storage.partition_store import to_arrow
from prunescope.warehouse.tables import TABLES
from tests.pipelines.tiny_study import study_of
from tests.sql.warehouse_builder import Handmade
from tests.tiny_models import save_tiny

STEPS, SAMPLES = 7, 3
STUDY = study_of(
    prompts=[
        {"id": "maths", "kind": "maths", "text": "2+2?", "gold": "4", "answer_pattern": r"(\d)"},
        {"id": "open", "kind": "open", "text": "Why ⏎ 😀?"},
    ],
    generation={"new_tokens": STEPS},
    decoding={"temperature": 1.3, "top_p": 0.9, "samples": SAMPLES, "seed": 4},
)


def slow_softmax(decoder: Decoder, tokens: Sequence[int]) -> np.ndarray:
    """Return the probabilities of the next token from a whole pass."""
    state = decoder.hidden(torch.tensor([tokens]))[0, -1:]
    logits = decoder.head.logits_of_state(state)[0].double().numpy() / 1.3
    p = np.exp(logits - logits.max())
    return p / p.sum()


def slow_nucleus(p: np.ndarray) -> np.ndarray:
    order = np.lexsort((np.arange(len(p)), -p))
    kept = p.copy()
    kept[order[int((p[order].cumsum() < 0.9).sum()) + 1 :]] = 0
    return kept / kept.sum()


def slow_text(decoder: Decoder, ids: tuple[int, ...], key: int) -> list[int]:
    """Sample token by token."""
    tokens = list[int]()
    for step in range(STEPS):
        p = slow_nucleus(slow_softmax(decoder, (*ids, *tokens)))
        with np.errstate(divide="ignore"):
            tokens.append(int(np.argmax(np.log(p) + gumbel_noise(key, step, np.arange(len(p))))))
        if tokens[-1] in decoder.end_ids:
            break
    return tokens


def test_texts_and_distributions_are_those_of_a_slow_sampler(decoder: Decoder) -> None:
    variant = prune(decoder, parse_recipe("magnitude-50"))
    tables = SamplingSession(decoder, "tiny", STUDY).trace("magnitude-50", variant)
    for name, frame in tables.items():
        named = frame.with_columns(model=pl.lit("tiny"), recipe=pl.lit("magnitude-50"))
        assert violations(TABLES[name], to_arrow(TABLES[name], named)) == []
    texts, steps = tables["sampled_generations"], tables["sampled_steps"]
    assert len(texts) == 2 * SAMPLES
    flips = 0
    for prompt in tokenize_prompts(STUDY, decoder.tokenizer, decoder.context_length):
        for sample in range(SAMPLES):
            key = noise_key(4, prompt.prompt.id, sample)
            dense = slow_text(decoder, prompt.ids, key)
            with apply_variant(decoder, variant):
                pruned = slow_text(decoder, prompt.ids, key)
            own = (pl.col("prompt_id") == prompt.prompt.id) & (pl.col("sample") == sample)
            (text,) = texts.filter(own).to_dicts()
            assert text["token_ids"] == pruned
            parted = next(
                (step for step, pair in enumerate(zip(dense, pruned, strict=False)) if len(set(pair)) > 1), None
            )
            assert text["first_flip_step"] == parted
            flips += parted is not None
            count = len(dense) if parted is None else parted + 1
            for trajectory, read in (("teacher_forced", dense), ("own_text", pruned)):
                rows = steps.filter(own, trajectory=trajectory).sort("step")
                assert rows["step"].to_list() == list(range(len(read)))
                unknown = [None] * (len(read) - count)
                written = (rows["token_id_dense"].to_list(), rows["token_id_pruned"].to_list())
                if trajectory == "teacher_forced":
                    assert written == (dense, pruned[:count] + unknown)
                else:
                    assert written == (dense[:count] + unknown, pruned)
                p = [slow_softmax(decoder, (*prompt.ids, *read[:step])) for step in range(len(read))]
                with apply_variant(decoder, variant):
                    q = [slow_softmax(decoder, (*prompt.ids, *read[:step])) for step in range(len(read))]
                sides = [(slow_nucleus(one), slow_nucleus(other)) for one, other in zip(p, q, strict=True)]
                expected = [total_variation(*side) for side in sides]
                np.testing.assert_allclose(rows["total_variation"], expected, atol=2e-5)
                expected = [flip_probability(*side) for side in sides[:count]]
                np.testing.assert_allclose(rows["flip_probability"].drop_nulls(), expected, atol=2e-5)
                assert rows["flip_probability"].null_count() == len(unknown)
                for name, one, other in (("kl_dense_pruned_nats", p, q), ("kl_pruned_dense_nats", q, p)):
                    expected = [float((a * np.log(a / b)).sum()) for a, b in zip(one, other, strict=True)]
                    np.testing.assert_allclose(rows[name], expected, rtol=1e-3)
    assert flips, "no text parts, so that the test shows nothing"


def test_the_dense_model_never_parts_from_itself(decoder: Decoder) -> None:
    tables = SamplingSession(decoder, "tiny", STUDY).trace("dense", Variant())
    steps = tables["sampled_steps"]
    for name in ("flip_probability", "total_variation", "kl_dense_pruned_nats", "kl_pruned_dense_nats"):
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
    keys = ["prompt_id", "sample", "trajectory", "step"]
    one, other = (tables["sampled_steps"].sort(keys)["total_variation"] for tables in (together, apart))
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_broken_variant_is_refused(tiny_folder: Path) -> None:
    broken = load_decoder(tiny_folder)
    session = SamplingSession(broken, "tiny", STUDY)
    with torch.no_grad():
        broken.layers[1].mlp.mixers[0].down_proj.weight.fill_(float("inf"))
    with pytest.raises(ComputationError, match="tiny@other: NaN or infinite logits"):
        session.trace("other", Variant())


Text = tuple[int, ...]
VOCABULARY, LENGTH = 5, 4
# What ends a text is the third token.
LEAVES = [
    text
    for length in range(1, LENGTH + 1)
    for text in product(range(VOCABULARY), repeat=length)
    if 2 not in text[:-1] and (text[-1] == 2 or length == LENGTH)
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """Load a random Llama with a vocabulary of five tokens, so that all of its texts can be listed."""
    folder = save_tiny(tmp_path_factory.mktemp("toy"), vocab_size=VOCABULARY)
    words = Tokenizer(WordLevel({"<|pad|>": 0, "<|start|>": 1, "<|end|>": 2, "a": 3, "b": 4}, unk_token="a"))
    words.pre_tokenizer = Split("", "isolated")
    (folder / "chat_template.jinja").unlink()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", pad_token="<|pad|>").save_pretrained(folder)
    return load_decoder(folder)


def toy_study(samples: int, *prompts: str, temperature: float = 2.0) -> Study:
    return study_of(
        prompts=[{"id": text, "kind": "open", "text": text} for text in prompts],
        generation={"new_tokens": LENGTH},
        decoding={"temperature": temperature, "top_p": 1, "samples": samples},
    )


def log_probabilities(decoder: Decoder, ids: tuple[int, ...], temperature: float = 2.0) -> np.ndarray:
    """Return ln P of every text by brute force: a float64 copy of the model reads each text whole."""
    model, totals = copy.deepcopy(decoder.model).double(), []
    for _, group in groupby(LEAVES, len):
        texts = torch.tensor(list(group))
        with torch.inference_mode():
            tokens = torch.cat([torch.tensor([ids]).expand(len(texts), -1), texts], dim=1)
            logits = model(input_ids=tokens).logits[:, len(ids) - 1 : -1] / temperature
        totals.append(logits.log_softmax(-1).gather(2, texts[:, :, None]).sum(dim=(1, 2)).numpy())
    return np.concatenate(totals)


def of_both(decoder: Decoder, variant: Variant, ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return ln P and ln Q of every text."""
    dense = log_probabilities(decoder, ids)
    with apply_variant(decoder, variant):
        return dense, log_probabilities(decoder, ids)


@pytest.fixture(scope="module")
def listed(toy: Decoder) -> tuple[Variant, dict[str, pl.DataFrame]]:
    """Sample every text once from both models, the variant in reverse order, so that a sample's two texts differ."""
    study, variant = toy_study(len(LEAVES), "ab"), prune(toy, parse_recipe("magnitude-50"))
    keys = {noise_key(0, "ab", sample): sample for sample in range(len(LEAVES))}
    order = list(LEAVES)

    def draw(nucleus: object, key: int, step: int) -> int:
        return order[keys[key]][step]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunescope.pipelines.evaluation.traces.sampled_texts.draw", draw)
        session = SamplingSession(toy, "tiny", study)
        order.reverse()
        return variant, session.trace("magnitude-50", variant)


def test_the_chain_rule_over_all_texts_gives_the_kl_of_the_distributions_over_texts(
    toy: Decoder, listed: tuple[Variant, dict[str, pl.DataFrame]]
) -> None:
    variant, tables = listed
    assert tables["sampled_generations"]["token_ids"].to_list() == [list(leaf) for leaf in reversed(LEAVES)]
    log_p, log_q = of_both(toy, variant, (3, 4))
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert np.exp(log_q).sum() == pytest.approx(1)
    for trajectory, column, own, other in (
        ("teacher_forced", "kl_dense_pruned_nats", log_p, log_q),
        ("own_text", "kl_pruned_dense_nats", log_q[::-1], log_p[::-1]),
    ):
        rows = tables["sampled_steps"].filter(trajectory=trajectory)
        sums = rows.group_by("sample").agg(pl.len(), pl.col(column).cast(pl.Float64).sum()).sort("sample")
        lengths = [len(leaf) for leaf in (LEAVES if trajectory == "teacher_forced" else reversed(LEAVES))]
        assert sums["len"].to_list() == lengths, "a text is measured whole"
        exact = float((np.exp(own) * (own - other)).sum())
        assert exact > 0.05
        assert float((np.exp(own) * sums[column].to_numpy()).sum()) == pytest.approx(exact, rel=1e-4)


def test_sampled_texts_estimate_the_kl_of_the_distributions_over_texts_within_its_interval(toy: Decoder) -> None:
    prompts = [f"{first}{second}{third}" for first in "ab" for second in "ab" for third in "ab"]
    study, variant = toy_study(64, *prompts), prune(toy, parse_recipe("magnitude-50"))
    dense = SamplingSession(toy, "tiny", study).trace("dense", Variant())
    tables = SamplingSession(toy, "tiny", study).trace("r", variant)
    warehouse = Handmade().model().variant("dense").variant("r")
    for recipe, own in (("dense", dense), ("r", tables)):
        for name, frame in own.items():
            warehouse.rows[name] += [{"model": "tiny", "recipe": recipe} | row for row in frame.to_dicts()]
    with warehouse.opened() as connection:
        rows = connection.sql("select * from sequence_kl where recipe = 'r' order by trajectory desc").pl().to_dicts()
    sides = [of_both(toy, variant, tuple(3 + (letter == "b") for letter in prompt)) for prompt in prompts]
    for row, (own, other) in zip(rows, ((0, 1), (1, 0)), strict=True):
        exact = np.mean([float((np.exp(side[own]) * (side[own] - side[other])).sum()) for side in sides])
        assert (row["prompts"], row["texts"]) == (8, 512)
        assert row["sequence_kl_low_nats"] < exact < row["sequence_kl_high_nats"]
        assert row["sequence_kl_nats"] == pytest.approx(exact, rel=0.1)
        assert row["kl_per_token_nats"] * row["tokens"] == pytest.approx(row["sequence_kl_nats"] * row["texts"])


def test_a_token_that_one_model_hardly_gives_costs_its_whole_logarithm(toy: Decoder) -> None:
    # At a low temperature probabilities underflow float32, and their logarithms do not.
    study = toy_study(2, "a", temperature=0.01)
    variant = prune(toy, parse_recipe("magnitude-70"))
    steps = SamplingSession(toy, "tiny", study).trace("r", variant)["sampled_steps"]
    assert steps["kl_dense_pruned_nats"].is_finite().all()
    first = steps.filter(trajectory="teacher_forced", sample=0, step=0)
    sides = []
    for changes in (Variant(), variant):
        with apply_variant(toy, changes), torch.inference_mode():
            logits = copy.deepcopy(toy.model).double()(input_ids=torch.tensor([[3]])).logits[0, -1] / 0.01
        sides.append(logits.log_softmax(-1))
    exact = [float((p.exp() * (p - q)).sum()) for p, q in (sides, sides[::-1])]
    assert max(exact) > 120
    found = [first["kl_dense_pruned_nats"][0], first["kl_pruned_dense_nats"][0]]
    assert found == pytest.approx(exact, rel=1e-3)


def speculated(
    p: dict[Text, np.ndarray], q: dict[Text, np.ndarray], length: int, chance: np.random.Generator
) -> tuple[Text, list[tuple[Text, bool]]]:
    """Write one text by speculative sampling (Leviathan et al. 2023, algorithm 1).

    Args:
        p: probabilities of the dense model's next token, by the tokens before it.
        q: those of the draft.
        length: tokens of a draft.
        chance: random numbers.

    Returns:
        The text, and the contexts at which a token was proposed, with whether it was accepted.
    """
    text, proposals = Text(), list[tuple[Text, bool]]()

    def is_whole() -> bool:
        return len(text) == LENGTH or text[-1:] == (2,)

    while not is_whole():
        drafted = list[int]()
        while len(drafted) < length and (*text, *drafted) in q:
            drafted.append(int(chance.choice(VOCABULARY, p=q[*text, *drafted])))
        for token in drafted:
            mine, other = p[text], q[text]
            is_accepted = bool(chance.random() < mine[token] / other[token])
            proposals.append((text, is_accepted))
            if not is_accepted:
                residual = np.maximum(mine - other, 0)
                text = (*text, int(chance.choice(VOCABULARY, p=residual / residual.sum())))
                break
            text = (*text, token)
        else:
            if not is_whole():
                text = (*text, int(chance.choice(VOCABULARY, p=p[text])))
    return text, proposals


@pytest.mark.parametrize("length", [1, 3])
def test_speculative_sampling_accepts_as_often_as_one_minus_total_variation_and_keeps_the_dense_distribution(
    toy: Decoder, listed: tuple[Variant, dict[str, pl.DataFrame]], length: int
) -> None:
    variant, tables = listed
    contexts = {leaf[:step] for leaf in LEAVES for step in range(len(leaf))}

    def next_token() -> dict[Text, np.ndarray]:
        return {
            context: softmax(
                toy.head.logits_of_state(toy.hidden(torch.tensor([[3, 4, *context]]))[0, -1:])[0].double().numpy() / 2
            )
            for context in contexts
        }

    p = next_token()
    with apply_variant(toy, variant):
        q = next_token()
    rows = tables["sampled_steps"].filter(trajectory="teacher_forced")
    acceptance = {
        LEAVES[sample][:step]: 1 - distance
        for sample, step, distance in rows.select("sample", "step", "total_variation").iter_rows()
    }
    chance = np.random.default_rng(5)
    texts, proposals = Counter[Text](), Counter[tuple[Text, bool]]()
    for _ in range(8000):
        text, proposed = speculated(p, q, length, chance)
        texts[text] += 1
        proposals.update(proposed)
    accepted = sum(count for (_, is_accepted), count in proposals.items() if is_accepted)
    expected = sum(count * acceptance[context] for (context, _), count in proposals.items())
    spread = sum(count * acceptance[context] * (1 - acceptance[context]) for (context, _), count in proposals.items())
    assert abs(accepted - expected) < 3.5 * np.sqrt(spread)
    assert spread < 0.25 * proposals.total(), "acceptance differs between contexts"
    counts = np.array([texts[leaf] for leaf in LEAVES])
    predicted = 8000 * np.exp(log_probabilities(toy, (3, 4)))
    rare = predicted < 5
    cells = [(*side[~rare], side[rare].sum()) for side in (counts, predicted)]
    assert chisquare(*cells, sum_check=False).pvalue > 0.001
