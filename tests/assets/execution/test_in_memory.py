"""Tests of the measurement of two models in memory: rows equal to a run's, models left as they were, and refusals."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import prunescope as ps
from prunescope.pipelines.core.errors import ComputationError, InputError
from prunescope.warehouse.core.errors import DamagedFileWarning, WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import StudyFile, without_answers
from tests.tiny_models import DECODERS, save_tiny

SETTINGS = {
    "prompts": [{"id": "sky", "text": "Why is the sky blue?"}, {"id": "where", "text": "Où? 🌍"}],
    "texts": [{"id": "help", "source": "embedded", "context": 16, "max_tokens": 32}],
    "tasks": [{"name": "openbookqa", "samples": 2}],
    "generation": {"new_tokens": 4},
    "measure": {"layer_prompts": 1},
}
# What a run alone knows or measures.
_OWN = {"source", "revision", "weight_hash", "tokenizer_hash", "weight_bytes", "weight_format"}
_OWN |= {"parameters_json", "recipe_hash", "seconds", "peak_memory_bytes", "file_bytes"}


def halve(model: nn.Module) -> None:
    """Set the smaller half of an attention and an MLP matrix to 0, and change other values and a gain."""
    layer = model.get_submodule("model.layers.1")
    for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight"):
        weight = layer.get_parameter(name).data
        weight *= weight.abs() > weight.abs().median()
    layer.get_parameter("mlp.up_proj.weight").data *= 1.5
    layer.get_parameter("input_layernorm.weight").data += 0.25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "dense")


@pytest.fixture
def pair(folder: Path) -> tuple[nn.Module, object]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_rows_equal_those_of_a_run_with_the_changed_model_as_a_checkpoint(folder, pair, tmp_path, monkeypatch) -> None:
    without_answers(monkeypatch)
    model, tokenizer = pair
    changed = AutoModelForCausalLM.from_pretrained(folder)
    halve(changed)
    changed.save_pretrained(tmp_path / "changed")
    tokenizer.save_pretrained(tmp_path / "changed")
    external = {"name": "mine", "method": "external", "source": str(tmp_path / "changed")}
    study = StudyFile(tmp_path / "study.yaml", folder)
    study.write(recipes=["dense", external], noise=["bfloat16", "batch"], **SETTINGS)
    assert not ps.run(str(study.path), tmp_path / "run").failures
    measured = ps.measure(model, halve, tokenizer, model="tiny-a", name="mine", **SETTINGS)
    stores = Store(tmp_path / "run"), Store(measured.root)
    compared = 0
    for table in TABLES.values():
        for partition in stores[1].partitions(table):
            names = [column.name for column in table.columns if column.name not in _OWN]
            rows, expected = (
                store.read(table, partition.model, partition.recipe).select(names).to_pylist() for store in stores[::-1]
            )
            assert repr(rows) == repr(expected), (table.name, partition.recipe)  # repr: NaN equals NaN
            compared += 1
    variants = [dense, *_] = ["dense", "mine", "noise-batch", "noise-bfloat16"]
    assert set(measured.variants["recipe"]) == set(variants)
    assert compared > 10 * len(variants)
    assert measured.question("q01").rows["recipe"].unique().to_list() == ["mine"]
    assert measured.figure("hierarchy")
    assert ps.text("mine", "sky", measured.root).rows.height == 4
    assert dense in measured._repr_html_()
    assert "layer_transitions" in dir(measured)
    with pytest.raises(AttributeError, match="no table or view 'nothing'"):
        _ = measured.nothing
    next(Path(measured.root).glob("decoding_steps/*/recipe=dense/*.parquet")).write_bytes(b"cut short")
    with pytest.warns(DamagedFileWarning, match="is damaged"):
        assert set(measured.decoding_steps["recipe"]) == {*variants} - {"dense"}


def test_models_are_left_as_they_were_and_nothing_keeps_them(pair) -> None:
    model, tokenizer = pair
    model.train()
    model.model.layers[0].eval()
    model.model.norm.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = [module.training for module in model.modules()], [each.requires_grad for each in model.parameters()]
    copied = []

    def changed(one: nn.Module) -> None:
        copied.append(weakref.ref(one))
        halve(one)

    measured = ps.measure(model, changed, tokenizer, prompts=["Why?"], generation={"new_tokens": 2})
    assert ([each.training for each in model.modules()], [each.requires_grad for each in model.parameters()]) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model(torch.tensor([[1, 2]])).logits.sum().backward()  # its parameters are no inference tensors
    root = Path(measured.root)
    assert copied[0]() is None
    assert root.exists()
    del measured
    gc.collect()
    assert not root.exists()


def test_saved_tables_join_a_warehouse_and_replace_nothing(pair, tmp_path) -> None:
    model, tokenizer = pair
    short = {"prompts": ["Why?"], "generation": {"new_tokens": 2}, "noise": []}
    measured, target = ps.measure(model, halve, tokenizer, **short), tmp_path / "warehouse"
    measured.save(target)
    measured.save(target)
    assert ps.scan("variants", target).collect().sort("recipe")["recipe"].to_list() == ["changed", "dense"]
    files = {path: path.read_bytes() for path in target.rglob("*.parquet")}

    def other(one: nn.Module) -> None:
        one.get_parameter("model.layers.0.mlp.up_proj.weight").data *= 2

    again = ps.measure(model, other, tokenizer, **short)
    with pytest.raises(WarehouseError, match="has another dense-model@changed; measure again with another"):
        again.save(target)
    assert {path: path.read_bytes() for path in target.rglob("*.parquet")} == files
    ps.measure(model, other, tokenizer, name="other", **short).save(target)
    assert set(ps.scan("variants", target).collect()["recipe"]) == {"changed", "dense", "other"}


def _hooked(model: nn.Module) -> None:
    model.get_submodule("model.layers.0.mlp").register_forward_hook(lambda module, given, added: added * 2)


def _deeper(model: nn.Module) -> nn.Module:
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **(DECODERS["llama"] | {"num_hidden_layers": 4}))
    )


@pytest.mark.parametrize(
    ("changed", "settings", "error", "message"),
    [
        (lambda model: None, {}, ComputationError, "changed leaves the forward pass unchanged"),
        (_hooked, {}, InputError, "differs from the dense model with the same weights"),
        (lambda model: model.to(torch.bfloat16), {}, InputError, r"dtypes \(torch.bfloat16, torch.float32\)"),
        (lambda model: model.to("meta"), {}, InputError, r"several devices \(cpu, meta\); move them to one"),
        (_deeper, {}, InputError, "has 4 layers, the dense model 3"),
        (lambda model: model.model, {}, InputError, "is a LlamaModel, the dense model a LlamaForCausalLM"),
        (halve, {"prompts": []}, InputError, "nothing is measured; name `prompts`"),
        (halve, {"promts": ["a"]}, InputError, "`promts`: is not a key here; did you mean `prompts`"),
        (halve, {"dtype": "float16"}, InputError, "`dtype` follows from the models; leave it out"),
        (halve, {"search": {"remove": [0.2]}}, InputError, "`search` is for models on disk; write a study"),
        (halve, {"name": "dense"}, InputError, "`recipes`: 'dense' is listed twice"),
        (halve, {"model": "a/b"}, InputError, "models.0.name`: 'a/b' is not a valid name"),
        (lambda model: "gpt2", {}, InputError, "`changed` must be a model, or a function that returns one or None"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(pair, changed, settings, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        ps.measure(*pair[:1], changed, pair[1], **({"prompts": ["Why?"]} | settings))
    assert "\n" not in str(caught.value)
