"""Recovery by training: its gradient, what enters the weights, resumption, and what must not move."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.core.progress import Silent
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning import variant_patching
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.distill import Student, distill, state_gradient
from prunescope.pipelines.pruning.pruning_inputs import Statistics, Unfinished
from prunescope.pipelines.pruning.repair import sequence_divergences, split
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import DistillRecipe, parse_recipe, steps
from tests.pipelines.pruning.test_repair import ABOUT, EVERY_STRUCTURE, changed_and_dropped, fitted_by, made, tokens_of

SHORT = DistillRecipe(name="distill", steps=4, batch=2, learning_rate=0.02)


def distilled(decoder: Decoder, base: Variant, recipe: DistillRecipe = SHORT, **inputs: object) -> Variant:
    return distill(decoder, recipe, Statistics(tokens=tokens_of(decoder), **inputs), base)


@pytest.mark.parametrize("cap", [None, 1.5])
def test_the_gradient_is_that_of_the_divergence(cap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(50, 7, generator=generator), torch.randn(50, generator=generator)
    head = OutputHead(weight, bias, scale=0.7, cap=cap)
    dense, own = torch.randn(2, 300, 7, generator=generator)
    state = own.double().requires_grad_()

    def logs(x: Tensor) -> Tensor:
        z = 0.7 * x @ weight.double().T + bias.double()
        return (z if cap is None else cap * torch.tanh(z / cap)).log_softmax(dim=-1)

    dense_logs = logs(dense.double())
    (dense_logs.exp() * (dense_logs - logs(state))).sum().backward()
    torch.testing.assert_close(state_gradient(head, dense, own).double(), state.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("architecture", EVERY_STRUCTURE)
def test_the_variant_computes_what_was_trained(
    architecture: str, has_bias: bool, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    base, tokens = changed_and_dropped(decoder), split(tokens_of(decoder))[0]
    student = Student(decoder, replace_fields(SHORT, bias=has_bias, weights=True), base, tokens)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for change in student.changes.values():
            change.add_(0.1 * torch.randn(change.shape, generator=generator))
    with student.forward() as forward, torch.no_grad():
        trained = forward(tokens)
    variant = student.variant()
    with apply_variant(decoder, variant):
        found = decoder.hidden(tokens)
    assert (found - trained).norm() < 1e-3 * trained.norm()
    with apply_variant(decoder, base):
        assert (decoder.hidden(tokens) - trained).norm() > 1e-2 * trained.norm()
    assert bool(variant.substitutes) == has_bias


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_a_large_repaired_variant_computes_what_was_trained(
    architecture: str, tiny_decoder: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights beyond the limit are swapped whole, and values from an inference mode and fixed maps take part."""
    monkeypatch.setattr(variant_patching, "MAX_CHANGED_BYTES", 0)
    decoder = tiny_decoder(architecture)
    base = fitted_by(decoder, "attn-drop-1+magnitude-50+linear-4", changed_and_dropped(decoder))
    tokens = split(tokens_of(decoder))[0]
    student = Student(decoder, replace_fields(SHORT, bias=False, weights=True), base, tokens)
    assert not any(key.endswith(".bias") for key in student.changes)
    with student.forward() as forward:
        before = forward(tokens)
        before.sum().backward()
        with torch.no_grad():
            for change in student.changes.values():
                change.add_(0.05 * torch.ones_like(change))
            trained = forward(tokens)
    with apply_variant(decoder, base):
        assert (decoder.hidden(tokens) - before).norm() < 1e-3 * before.norm()
    variant = student.variant()
    assert variant.substitutes == base.substitutes
    with apply_variant(decoder, variant):
        assert (decoder.hidden(tokens) - trained).norm() < 1e-3 * trained.norm()


def replace_fields(recipe: DistillRecipe, **fields: object) -> DistillRecipe:
    return recipe.model_copy(update=fields)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt_neox", "gpt2", "bloom", "mixtral"])
def test_the_divergence_falls_and_the_dense_model_stays(
    architecture: str, tiny_decoder: Callable[[str], Decoder]
) -> None:
    decoder = tiny_decoder(architecture)
    before = {name: each.detach().clone() for name, each in decoder.model.named_parameters()}
    base = changed_and_dropped(decoder)
    variant = distilled(decoder, base, replace_fields(SHORT, steps=12))
    after = dict(decoder.model.named_parameters())
    assert {name: each.requires_grad for name, each in after.items()} == dict.fromkeys(before, False)
    assert all(torch.equal(after[name], each) for name, each in before.items())
    unrepaired, repaired = sequence_divergences(decoder, [base, variant], split(tokens_of(decoder))[0])
    assert repaired.mean() < 0.9 * unrepaired.mean()
    facts = variant.facts["repair"]
    assert facts["tokens_fitted"] + facts["tokens_held_out"] == tokens_of(decoder).numel()
    assert facts["kl_unrepaired_nats"] == pytest.approx(
        sequence_divergences(decoder, [base], held_out(decoder))[0].mean()
    )


def held_out(decoder: Decoder) -> Tensor:
    return split(tokens_of(decoder))[1]


class Killed(Silent):
    """A listener that interrupts the computation after some updates."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: int = 1) -> None:
        """Raise at the last update."""
        self.left -= amount
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("weights", [False, True])
def test_an_interrupted_training_ends_as_one_that_was_not(decoder: Decoder, tmp_path: Path, weights: bool) -> None:
    base, recipe = changed_and_dropped(decoder), replace_fields(SHORT, steps=25, weights=weights)
    statistics = Statistics(tokens=tokens_of(decoder), unfinished=Unfinished(tmp_path, "w"))
    whole = distilled(decoder, base, recipe)
    with pytest.raises(KeyboardInterrupt):
        distill(decoder, recipe, statistics, base, Killed(after=17))
    started = list[int]()

    class Counted(Silent):
        def start(self, task: str, total: int, tokens: int = 0) -> None:
            started.append(total)

    assert distill(decoder, recipe, statistics, base, Counted()).hash == whole.hash
    assert started == [15]
    # Neither another recipe nor a damaged file goes on from that state.
    other = replace_fields(recipe, seed=1)
    assert distill(decoder, other, statistics, base, Counted()).hash != whole.hash
    (state,) = tmp_path.iterdir()
    state.write_bytes(state.read_bytes()[:100])
    assert distill(decoder, recipe, statistics, base, Counted()).hash == whole.hash
    assert started == [15, 25, 25]


@pytest.mark.parametrize("name", ["wanda-2of4", "magnitude-50", "rtn-4bit"])
def test_masks_and_codes_survive(decoder: Decoder, name: str) -> None:
    base = made(decoder, name)
    variant = distilled(decoder, base)
    for matrix, change in base.changes.items():
        trained, mask = variant.changes[matrix], change.mask
        assert (trained.codes is None) == (change.codes is None)
        assert mask is None if trained.mask is None else torch.equal(trained.mask, mask)


def test_trained_weights_keep_their_zeros_and_codes_are_refused(decoder: Decoder) -> None:
    recipe = replace_fields(SHORT, weights=True)
    base = made(decoder, "magnitude-50")
    variant = distilled(decoder, base, recipe)
    for name, mask in base.masks.items():
        before, after = (each.changes[name].weight(decoder.matrices[name].weight) for each in (base, variant))
        assert torch.equal(variant.masks[name], mask)
        assert not after[~mask].any()
        assert not torch.equal(before, after)
    with pytest.raises(InputError, match="codes of quantized weights cannot be trained; leave `weights` out"):
        distilled(decoder, made(decoder, "rtn-4bit"), recipe)


def test_a_training_goes_on_from_a_closed_form(decoder: Decoder) -> None:
    base = made(decoder, "attn-drop-1")
    linear = fitted_by(decoder, "attn-drop-1+linear-4", base)
    variant = distilled(decoder, linear)
    (label,) = base.dropped
    assert variant.substitutes[label].reads.shape == linear.substitutes[label].reads.shape
    assert not torch.equal(variant.substitutes[label].reads, linear.substitutes[label].reads)
    both = made(decoder, "{name: m, method: composed, parts: [attn-drop-1, linear-4, {method: distill, steps: 2}]}")
    assert both.facts["repair"]["kl_unrepaired_nats"] == pytest.approx(linear.facts["repair"]["kl_repaired_nats"])


def test_a_small_scale_is_felt_in_bfloat16(tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder, "bfloat16")
    student = Student(decoder, SHORT, made(decoder, "magnitude-50"), tokens := tokens_of(decoder))
    with student.forward() as forward, torch.no_grad():
        before = forward(tokens)
        for key, change in student.changes.items():
            change.add_(
                0.003 * key.startswith("scale:")
            )  # less than half of bfloat16's distance between 1 and the next
        assert not torch.equal(forward(tokens), before)


def test_half_precision_and_seeds(decoder: Decoder) -> None:
    base = made(decoder, "magnitude-50")
    single, again, half, other = (
        distilled(decoder, base, replace_fields(SHORT, seed=seed), dtype=dtype)
        for seed, dtype in ((0, None), (0, torch.float64), (0, torch.bfloat16), (3, None))
    )
    assert single.hash == again.hash
    assert single.hash not in {half.hash, other.hash}
    unrepaired, *own = sequence_divergences(decoder, [base, single, half], split(tokens_of(decoder))[0])
    assert all(each.mean() < unrepaired.mean() for each in own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill", "distill repairs an earlier recipe; write it after one"),
        ("wanda-50+distill+affine", "distill repairs all that is before it; put it last"),
        ("wanda-50+distill+distill", "put it last"),
        ("wanda-50+affine+rescale+distill", "affine repairs all that is before it; put it last"),
        ("dense+distill", "dense prunes nothing"),
        (
            "{name: m, method: composed, parts: [rtn-4bit, {method: distill, weights: true}]}",
            "codes of quantized weights cannot be trained; leave `weights` out",
        ),
        (
            "{name: m, method: composed, parts: [attn-drop-2, {method: distill, weights: true}]}",
            "drops leave no changed weights to train; leave `weights` out",
        ),
        ("{name: m, method: composed, parts: [wanda-50, {method: distill, steps: 0}]}", "steps"),
    ],
)
def test_trainings_out_of_place_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        parse_recipe(text)


def test_what_a_training_needs_is_named(decoder: Decoder) -> None:
    base, recipe = made(decoder, "magnitude-50"), steps(parse_recipe("magnitude-50+distill"))[-1]
    with pytest.raises(InputError, match="recipe distill needs calibration tokens"):
        distill(decoder, recipe, Statistics(), base)
    tokens = Statistics(tokens=tokens_of(decoder))
    with pytest.raises(InputError, match="the model has no LM head"):
        distill(replace(decoder, output=None), recipe, tokens, base)
    with pytest.raises(InputError, match="must be whole on one device to be trained"):
        distill(replace(decoder, is_streamed=True), recipe, tokens, base)
    with pytest.raises(InputError, match="must be whole on one device to be trained"):
        distill(replace(decoder, memory={"cpu": 2**30}), recipe, tokens, base)
    with pytest.raises(ComputationError, match="NaN or infinite"):
        distilled(decoder, base, replace_fields(SHORT, learning_rate=1e30))


@pytest.mark.parametrize("name", ["wanda-50", "attn-drop-1", "block-drop-1+wanda-50"])
def test_a_checkpoint_opens_with_what_was_trained(decoder: Decoder, name: str, tmp_path: Path) -> None:
    variant = distilled(decoder, made(decoder, name))
    done = export(decoder, variant, tmp_path / "out", ABOUT)  # compares the logits
    assert done.distance < 1e-3
    assert any(note.startswith("The repair: on held-out text it ") for note in done.notes)


def test_a_composition_is_pruned_and_trained(decoder: Decoder) -> None:
    recipe = parse_recipe("{name: m, method: composed, parts: [magnitude-50, {method: distill, steps: 3, batch: 2}]}")
    found = prune(decoder, recipe, tokens=tokens_of(decoder))
    short = replace_fields(SHORT, steps=3, learning_rate=0.01)
    assert found.hash == distilled(decoder, prune(decoder, parse_recipe("magnitude-50")), short).hash
