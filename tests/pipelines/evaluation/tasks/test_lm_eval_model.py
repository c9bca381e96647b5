"""Our answers to lm-eval's requests against those of its own `hf` model, on every shipped task."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.evaluation.tasks import lm_eval_model
from prunescope.pipelines.evaluation.tasks.lm_eval_model import VariantLM
from prunescope.pipelines.evaluation.tasks.loading import LoadedTask, load_tasks, quiet
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.pipelines.evaluation.tasks import harness
from tests.pipelines.evaluation.traces.float64_reference import Llama64
from tests.pipelines.models.recorded import shapes_of_passes
from tests.pipelines.models.reference_models import copy_of, write_masks, write_zeros
from tests.tiny_models import save_tiny

# Rotary, windows shorter than a context, learned positions, ALiBi, convolutions with states; RecurrentGemma's cache
# takes only single tokens, Bamba has none.
ARCHITECTURES = [
    *("llama", "gpt2", "lfm2", "recurrent_gemma", "bamba"),
    # test_batched_generation.py has windows and ALiBi, too.
    *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("mistral", "bloom")),
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[LoadedTask]:
    folder = tmp_path_factory.mktemp("tasks")
    return load_tasks([*harness.specs(folder), harness.writing_spec(folder)])


def theirs(model: object) -> HFLM:
    """Return lm-eval's own model, which accumulates in float32 by default."""
    with quiet():
        return HFLM(pretrained=model, device="cpu", dtype="float32", softmax_dtype="float64", batch_size=3)


def require_same(ours: VariantLM, other: HFLM, loaded: LoadedTask) -> None:
    for model in (ours, other):
        model._max_length = loaded.spec.context
    # In a batch its rows continue after a stop string, and padding may change their states.
    other.batch_size_per_gpu = 1 if loaded.scoring == "greedy" else 3
    found, wanted = harness.answers(ours, loaded), harness.answers(other, loaded)
    assert len(found) == len(loaded.docs)
    if loaded.scoring == "greedy":
        assert found == wanted
        return
    for mine, truth in zip(found, wanted, strict=True):
        assert mine == pytest.approx(truth, rel=0, abs=1e-4), (loaded.name, loaded.scoring)


@pytest.mark.third(0)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_equal_those_of_lm_evals_own_model(architecture: str, tasks: list[LoadedTask], tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    ours, other = VariantLM(load_decoder(folder)), theirs(str(folder))
    assert ours._can_share == (architecture not in {"recurrent_gemma", "bamba"})
    for loaded in tasks:
        require_same(ours, other, loaded)


def test_an_applied_variant_answers_like_its_checkpoint(
    decoder: Decoder, tasks: list[LoadedTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, masked, dropped = VariantLM(decoder), prune(decoder, parse_recipe("magnitude-50")), ("attn.0", "mlp.1")
    monkeypatch.setattr(lm_eval_model, "can_reuse_prefix", None)  # the dense model was asked already
    dense = harness.answers(ours, tasks[0])
    for variant in (masked, Variant(dropped=dropped)):
        copied = copy_of(decoder)
        write_masks(copied, variant, set(variant.masks))
        write_zeros(copied, set(variant.dropped))
        with quiet():
            other = HFLM(pretrained=copied.model, tokenizer=decoder.tokenizer, softmax_dtype="float64", batch_size=3)
        for loaded in (tasks[0], tasks[1], tasks[-1]):
            with apply_variant(decoder, variant):
                require_same(ours, other, loaded)
        assert harness.answers(ours, tasks[0]) == dense != harness.answers(other, tasks[0])


def test_long_options_have_the_log_likelihood_of_a_float64_model(tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder)
    model, ours = Llama64.load(decoder.folder), VariantLM(decoder)
    generator = torch.Generator().manual_seed(0)
    options = [torch.randint(0, 300, (size,), generator=generator).tolist() for size in (100, 80, 40)]
    found = ours._loglikelihood_tokens([((None, None), [5, 6, 7], option) for option in options])
    for option, (likelihood, _) in zip(options, found, strict=True):
        states = model.streams([5, 6, 7, *option[:-1]])[f"mlp.{model.layers - 1}"][1][2:]
        logits = model.norm(states, "model.norm.weight") @ model.head.T
        truth = torch.log_softmax(logits, -1).gather(1, torch.tensor(option)[:, None]).sum()
        assert likelihood == pytest.approx(float(truth), rel=0, abs=1e-6)  # in float32 off by 3e-6 to 5e-6


def test_options_share_the_pass_over_their_context(decoder: Decoder, tmp_path: Path) -> None:
    rows = [{"query": f"Which is {n} of these, once more?", "choices": list("abcde"), "gold": 0} for n in range(4)]
    data = tmp_path / "short.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    ours = VariantLM(decoder)
    for loaded in load_tasks([TaskSpec(name="openbookqa", data=str(data))]):
        with shapes_of_passes(decoder) as shapes:
            samples = harness.evaluated(ours, loaded)
        alone = sum(len(ours.tok_encode("".join(args))) for sample in samples for args in sample["arguments"])
        assert sum(map(math.prod, shapes)) < 0.3 * alone


def test_where_padding_changes_states_only_equal_lengths_share_a_batch(decoder: Decoder) -> None:
    contexts = ([5, 6, 7, 8], [9, 10, 11, 12], [3, 4])
    requests = [((None, None), list(context), [20 + n, 30, 40][: n + 1]) for context in contexts for n in range(3)]
    padded = VariantLM(decoder)._loglikelihood_tokens(requests)
    unpadded = VariantLM(replace(decoder, can_pad=False))._loglikelihood_tokens(requests)
    alone = [VariantLM(decoder)._loglikelihood_tokens([request])[0] for request in requests]
    for found in (padded, unpadded):
        assert [value for value, _ in found] == pytest.approx([value for value, _ in alone], abs=1e-5)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in alone]


def test_greedy_continuations_are_recognized(decoder: Decoder) -> None:
    context = [5, 6, 7, 8]
    written = list(context)
    for _ in range(3):
        state = decoder.hidden(torch.tensor([written]))[0, -1:]
        written.append(int(decoder.head.logits_of_state(state).argmax()))
    best, other = written[4:], [*written[4:6], (written[6] + 1) % 300]
    requests = [((None, None), context, tokens) for tokens in (best, other, best[:1])]
    assert [greedy for _, greedy in VariantLM(decoder)._loglikelihood_tokens(requests)] == [True, False, True]


def test_the_decoders_own_tokenizer_is_unchanged(decoder: Decoder) -> None:
    before = decoder.tokenizer.pad_token
    decoder.tokenizer.pad_token = None
    VariantLM(decoder)
    assert decoder.tokenizer.pad_token is None
    decoder.tokenizer.pad_token = before


def test_damaged_weights_and_answers_beyond_the_context_are_refused(decoder: Decoder, tasks: list[LoadedTask]) -> None:
    ours = VariantLM(decoder)
    with pytest.raises(InputError, match=r"answer of 129 tokens; it must have 1 to 128"):
        ours._loglikelihood_tokens([((None, None), [1], [2] * 129)])
    copied = copy_of(decoder)
    next(copied.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ComputationError, match="NaN or infinite logits in a task"):
        harness.answers(VariantLM(copied), tasks[0])


def test_a_task_that_draws_its_answers_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    spec = harness.writing_spec(tmp_path)
    path = Path(spec.source)
    path.write_text(path.read_text().replace("do_sample: false", "do_sample: true, temperature: 0.8"))
    (loaded,) = load_tasks([spec])
    with pytest.raises(InputError, match="mine: it samples its answers"):
        harness.answers(VariantLM(decoder), loaded)
