"""Tests of removed neurons and heads: a variant equals the smaller model, and scores follow the papers' formulas."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import load_decoder
from prunescope.pipelines.pruning.apply import prune
from prunescope.pipelines.pruning.calibration.statistics import CalibrationResult, calibrate, calibration_tokens
from prunescope.pipelines.pruning.methods.structured_units import head_count, heads_of, probe_calls
from prunescope.pipelines.pruning.variant import Variant, load_variant
from prunescope.pipelines.pruning.variant_patching import apply_variant
from prunescope.pipelines.recipes import parse_recipe
from prunescope.pipelines.studies import CalibrationSpec
from tests.pipelines.models.recorded import inputs_of
from tests.pipelines.models.reference_models import logits
from tests.tiny_models import EVERY_DECODER, SHORT_TEXT, save_tiny

SPEC = CalibrationSpec(source=SHORT_TEXT, sequences=6, length=24)


Load = Callable[[str], tuple[Decoder, CalibrationResult]]
NO_BIAS = "has no bias of its own; set `compensate: false`"
ACROSS_HEADS = "its heads are not independent of each other"
WITH_EXPERTS = (
    "mixtral qwen2_moe qwen3_moe olmoe gpt_oss llama4_text jamba granitemoehybrid qwen3_next".split()  # noqa: SIM905
)
REFUSED = {
    **{(name, "neurons-25-flap"): NO_BIAS for name in WITH_EXPERTS},
    **{(name, "flap-30"): NO_BIAS for name in WITH_EXPERTS},
    **{(name, recipe): ACROSS_HEADS for name in ("olmo2", "olmoe") for recipe in ("heads-50", "flap-30")},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Callable[[str], Decoder]) -> Load:
    @cache
    def loaded(name: str, **changes: object) -> tuple[Decoder, CalibrationResult]:
        folder = tmp_path_factory.mktemp("models")
        decoder = load_decoder(save_tiny(folder / name, name, **changes)) if changes else tiny_decoder(name)
        return decoder, calibrate(decoder, SPEC, "tiny")

    return loaded


def pruned(decoder: Decoder, calibrated: CalibrationResult, recipe: str) -> Variant:
    return prune(decoder, parse_recipe(recipe), calibrated.activation_stats, calibrated.block_influence)


def variant_logits(decoder: Decoder, variant: Variant) -> Tensor:
    with apply_variant(decoder, variant):
        return logits(decoder.model)


def cut(decoder: Decoder, variant: Variant) -> dict[str, Tensor]:
    """Return the dense model's parameters without the rows and columns that the masks remove as a whole."""
    found = {name: parameter.detach().clone() for name, parameter in decoder.model.state_dict().items()}
    stacks: dict[str, list[Tensor]] = {}
    for name, mask in variant.masks.items():
        stem, _, expert = name.partition("[")
        matrix = decoder.matrices[name]
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns[None]), f"{name}: a mask that is no rows and columns"
        smaller = matrix.weight[rows][:, columns]
        smaller = smaller.T.contiguous() if matrix.is_transposed else smaller.contiguous()
        if expert:
            stacks.setdefault(stem, []).append(smaller)
            bias = f"{stem}_bias"
            if bias in found:
                stacks.setdefault(bias, []).append(found[bias][int(expert[:-1])][rows])
            continue
        found[f"{stem}.weight"] = smaller
        if f"{stem}.bias" in found:
            found[f"{stem}.bias"] = found[f"{stem}.bias"][rows]
    found |= {stem: torch.stack(parts) for stem, parts in stacks.items()}
    return found | dict(variant.parameters)


def smaller(decoder: Decoder, variant: Variant, **sizes: int) -> nn.Module:
    """Build a stock model of other sizes with those parameters."""
    config = copy.deepcopy(decoder.model.config)
    for key, size in sizes.items():
        setattr(config, key, size)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(cut(decoder, variant))
    return model


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("llama", "intermediate_size"),
        ("gpt2", "n_inner"),
        ("opt", "ffn_dim"),
        ("phi3", "intermediate_size"),
        ("gemma3_text", "intermediate_size"),
        ("mixtral", "intermediate_size"),
        ("gpt_oss", "intermediate_size"),
        ("gpt_neox", "intermediate_size"),
    ],
)
def test_a_variant_without_neurons_equals_the_stock_model_of_that_size(
    load: Load, architecture: str, size: str
) -> None:
    decoder, calibrated = load(architecture)
    variant = pruned(decoder, calibrated, "neurons-25-magnitude")
    facts = variant.facts["structure"]
    count = next(iter(facts.values()))["units"]
    model = smaller(decoder, variant, **{size: count - round(0.25 * count)})
    torch.testing.assert_close(variant_logits(decoder, variant), logits(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(decoder.model), logits(model), rtol=1e-3)
    # The biases of rows that feed them are not zero, and go with them.
    assert all(fact["kind"] == "neurons" and len(fact["removed"]) == round(0.25 * count) for fact in facts.values())


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [("llama", 2), ("qwen2", 2), ("qwen3", 2), ("gemma3_text", 2), ("mixtral", 2), ("phi", 2)],
)
def test_a_variant_without_groups_of_heads_equals_the_stock_model_with_fewer(
    load: Load, architecture: str, heads: int
) -> None:
    decoder, calibrated = load(architecture)
    variant = pruned(decoder, calibrated, "heads-50")
    model = decoder.model.config
    sizes = {"num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": model.hidden_size // 4}
    torch.testing.assert_close(
        variant_logits(decoder, variant), logits(smaller(decoder, variant, **sizes)), rtol=1e-4, atol=1e-5
    )
    for fact in variant.facts["structure"].values():
        assert (fact["units"], fact["columns_a_unit"], len(fact["removed"])) == (2, 32, 1)
        assert [name.rpartition(".")[2] for name in fact["fed_by"]] == ["q_proj", "k_proj", "v_proj"]


def test_heads_of_a_fused_conv1d_equal_manually_cut_modules(load: Load) -> None:
    decoder, calibrated = load("gpt2")
    variant = pruned(decoder, calibrated, "heads-50")
    model: Any = copy.deepcopy(decoder.model)
    for index, block in enumerate(model.transformer.h):
        gone = variant.facts["structure"][f"transformer.h.{index}.attn.c_proj"]["removed"]
        kept = torch.tensor([16 * head + each for head in range(4) if head not in gone for each in range(16)])
        attn = block.attn
        fused = torch.cat([kept, 64 + kept, 128 + kept])
        attn.c_attn.weight = nn.Parameter(attn.c_attn.weight[:, fused])
        attn.c_attn.bias = nn.Parameter(attn.c_attn.bias[fused])
        attn.c_attn.nf = len(fused)
        attn.c_proj.weight = nn.Parameter(attn.c_proj.weight[kept])
        attn.num_heads, attn.split_size = 2, 32
    torch.testing.assert_close(variant_logits(decoder, variant), logits(model), rtol=1e-4, atol=1e-5)


def test_query_heads_of_one_shared_key_are_removed_singly(load: Load) -> None:
    decoder, calibrated = load("llama", num_key_value_heads=1, head_dim=16)
    variant = pruned(decoder, calibrated, "heads-25")
    assert not any("k_proj" in name or "v_proj" in name for name in variant.changes)
    model = smaller(decoder, variant, num_attention_heads=3)
    torch.testing.assert_close(variant_logits(decoder, variant), logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.third(1)
@pytest.mark.parametrize("name", EVERY_DECODER)
def test_every_decoder_drops_sublayers_and_units_or_gives_the_reason(load: Load, name: str) -> None:
    decoder, calibrated = load(name)
    dense = logits(decoder.model)
    tokens = calibration_tokens(decoder.tokenizer, SPEC)
    for recipe in ("attn+mlp-drop-2-greedy", "block-drop-1-iterative", "mlp-drop-2-consecutive"):
        found = variant_logits(decoder, prune(decoder, parse_recipe(recipe), tokens=tokens))
        assert found.isfinite().all()
        assert not torch.equal(found, dense)
    for recipe in ("neurons-25", "neurons-25-flap", "heads-50", "flap-30"):
        reason = REFUSED.get((name, recipe))
        if reason:
            with pytest.raises(InputError, match=reason):
                pruned(decoder, calibrated, recipe)
            continue
        variant = pruned(decoder, calibrated, recipe)
        found = variant_logits(decoder, variant)
        assert found.isfinite().all()
        assert not torch.equal(found, dense)
        # Every unit was proved: none lost its columns in the reader alone.
        assert all(fact["fed_by"] for fact in variant.facts["structure"].values())
        assert {*variant.facts["structure"]} <= {*variant.changes}
    torch.testing.assert_close(logits(decoder.model), dense, rtol=0, atol=0)


@pytest.mark.parametrize("score", ["magnitude", "wanda", "flap"])
def test_uniform_choices_follow_the_scores_formula_in_float64(load: Load, score: str) -> None:
    decoder, calibrated = load("llama")
    variant = pruned(decoder, calibrated, f"{{name: n, method: neurons, share: 0.25, score: {score}}}")
    x = inputs_of(decoder, {*variant.facts["structure"]}, *calibration_tokens(decoder.tokenizer, SPEC)[:, None])
    for index, layer in enumerate(decoder.layers):
        mlp = layer.mlp.mixers[0]
        gate, up, down = (each.weight.double() for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        name = f"model.layers.{index}.mlp.down_proj"
        scores = {
            "magnitude": torch.cat([gate, up, down.T], dim=1).norm(dim=1),
            "wanda": (down.abs() * x[name].norm(dim=0)).sum(dim=0),
            "flap": x[name].var(dim=0, correction=0) * down.norm(dim=0).square(),
        }[score]
        removed = variant.facts["structure"][name]["removed"]
        assert sorted(scores.argsort()[:24].tolist()) == removed


def test_flap_uses_one_threshold_for_all_heads_and_neurons(load: Load) -> None:
    decoder, calibrated = load("llama", num_key_value_heads=4, head_dim=16)
    variant = pruned(decoder, calibrated, "flap-30")
    facts = variant.facts["structure"]
    x = inputs_of(decoder, {*facts}, *calibration_tokens(decoder.tokenizer, SPEC)[:, None])
    ranks = []
    for name, fact in facts.items():
        weight = decoder.matrices[name].weight.double()
        fluctuation = x[name].var(dim=0, correction=0) * weight.square().sum(dim=0)
        scores = fluctuation.reshape(fact["units"], -1).sum(dim=1)
        standard = ((scores - scores.mean()) / scores.std()).tolist()
        size = 4 * 16 * 64 if fact["kind"] == "heads" else 3 * 64
        ranks += [(rank, name, unit, size, rank == max(standard)) for unit, rank in enumerate(standard)]
    total = sum(size for *_, size, _ in ranks)
    found = {(name, unit) for name, fact in facts.items() for unit in fact["removed"]}
    reached, expected, best = 0.0, set(), (0.3, set())
    for _, name, unit, size, is_best in sorted(ranks):
        if not is_best:
            reached, expected = reached + size / total, expected | {(name, unit)}
            best = min(best, (abs(reached - 0.3), expected), key=lambda each: each[0])
    assert found == best[1]
    assert len({len(fact["removed"]) for fact in facts.values()}) > 1, "the same everywhere is no global choice"
    masked = sum(int((~mask).sum()) for mask in variant.masks.values())
    assert abs(masked / total - 0.3) < 4 * 16 * 64 / total
    assert all(len(fact["removed"]) < fact["units"] for fact in facts.values())


@pytest.mark.parametrize(("architecture", "recipe"), [("llama", "neurons-25-flap"), ("gpt2", "flap-30")])
def test_the_bias_compensates_exactly_the_mean_change(load: Load, architecture: str, recipe: str) -> None:
    decoder, calibrated = load(architecture)
    variant = pruned(decoder, calibrated, recipe)
    plain = Variant(variant.changes)
    x = inputs_of(decoder, {*variant.facts["structure"]}, *calibration_tokens(decoder.tokenizer, SPEC)[:, None])
    for name in variant.facts["structure"]:
        weight, bias = decoder.matrices[name].weight.double(), decoder.model.get_submodule(name).bias
        own = plain.changes[name].weight(weight)
        change = x[name] @ (own - weight).T
        after = change + variant.parameters[f"{name}.bias"].double() - (0 if bias is None else bias.double())
        assert after.mean(dim=0).abs().max() < 1e-5 * change.abs().max()
        assert change.mean(dim=0).abs().max() > 1e-3 * change.abs().max()
    bare = variant_logits(decoder, plain) - logits(decoder.model)
    assert not torch.allclose(variant_logits(decoder, variant) - logits(decoder.model), bare)


def test_a_new_bias_loads_from_the_file_and_is_removed_again(load: Load, tmp_path: Path) -> None:
    decoder, calibrated = load("llama")
    variant = pruned(decoder, calibrated, "neurons-25-flap")
    variant.save(tmp_path / "v.safetensors", parse_recipe("neurons-25-flap"), "weights")
    again = load_variant(tmp_path / "v.safetensors", "weights")
    assert torch.equal(variant_logits(decoder, again), variant_logits(decoder, variant))
    assert again.facts["structure"] == variant.facts["structure"]
    assert decoder.layers[0].mlp.mixers[0].down_proj.bias is None


def test_heads_of_interleaved_and_consecutive_projections_are_distinguished(load: Load) -> None:
    for architecture, expected in (
        ("gpt_neox", list(range(48, 96))),
        ("mpt", [*range(16, 32), *range(80, 96), *range(144, 160)]),
        ("phi3", [*range(32, 64), *range(80, 96), *range(112, 128)]),
    ):
        decoder, _ = load(architecture)
        attn = decoder.layers[0].attn
        (units,) = heads_of(attn, probe_calls(decoder, [attn])[attn.label], 64, head_count(decoder))
        (rows,) = units.rows.values()
        assert rows[1].tolist() == expected


def test_without_proved_rows_only_columns_are_removed(load: Load, tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "mixed"))
    for layer in decoder.layers:
        mlp: Any = layer.mlp.mixers[0]
        mlp.act_fn = nn.Softmax(dim=-1)  # every neuron depends on the rows of all
    variant = prune(decoder, parse_recipe("neurons-25-magnitude"))
    assert [fact["fed_by"] for fact in variant.facts["structure"].values()] == [[], [], []]
    assert {*variant.changes} == {f"model.layers.{index}.mlp.down_proj" for index in range(3)}


def test_recurrences_have_no_heads_and_stay_unchanged(load: Load) -> None:
    decoder, calibrated = load("jamba")
    variant = pruned(decoder, calibrated, "heads-50")
    assert {fact["layer"] for fact in variant.facts["structure"].values()} == {1}
    assert not any("mamba" in name for name in variant.changes)
    assert variant.changed(decoder.layers[1].attn)
    assert not variant.changed(decoder.layers[0].attn)


def test_ties_and_dead_neurons_are_exact_and_damaged_weights_refused(load: Load, tmp_path: Path) -> None:
    decoder = load_decoder(save_tiny(tmp_path / "ties"))
    with torch.no_grad():
        for layer in decoder.layers:
            for parameter in layer.mlp.mixers[0].parameters():
                parameter.fill_(0.01)
        decoder.layers[0].mlp.mixers[0].down_proj.weight[:, 50] = 0
        decoder.layers[0].mlp.mixers[0].gate_proj.weight[50] = 0
        decoder.layers[0].mlp.mixers[0].up_proj.weight[50] = 0
    variant = prune(decoder, parse_recipe("neurons-25-magnitude"))
    removed = [fact["removed"] for fact in variant.facts["structure"].values()]
    assert removed == [[*range(23), 50], [*range(24)], [*range(24)]]
    equal = prune(decoder, parse_recipe("{name: g, method: neurons, share: 0.25, score: magnitude, ratios: global}"))
    assert sum(len(fact["removed"]) for fact in equal.facts["structure"].values()) == 72
    for name in ("down_proj", "up_proj"):
        with torch.no_grad():
            decoder.layers[1].mlp.mixers[0].get_submodule(name).weight[3, 3] = float("nan")
        with pytest.raises(ComputationError, match=r"mlp\.down_proj: .* NaN or infinite"):
            prune(decoder, parse_recipe("neurons-25-magnitude"))


def test_missing_statistics_and_impossible_shares_are_refused_with_the_models_numbers(load: Load) -> None:
    decoder, calibrated = load("llama")
    with pytest.raises(InputError, match="neurons-20 needs activation_stats"):
        prune(decoder, parse_recipe("neurons-20"))
    with pytest.raises(InputError, match=r"0.25 of the 2 heads that model.layers.0.self_attn.o_proj reads are 0"):
        pruned(decoder, calibrated, "heads-25")
    with pytest.raises(InputError, match="0.99 of the 96 neurons .* reads are 95|0.995 of the 96 .* are 96"):
        pruned(decoder, calibrated, "neurons-99.5")
    lone = calibrated.activation_stats.filter(~pl.col("module").cast(pl.String).str.contains("1.mlp.down"))
    with pytest.raises(InputError, match=r"no calibration token reached model.layers.1.mlp.down_proj"):
        prune(decoder, parse_recipe("neurons-20"), lone)
