"""Tests that models with layers on disk or several devices compute the same numbers and release memory and files."""

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.models import load
from prunescope.pipelines.models.decoder import Decoder, probe_tokens
from prunescope.pipelines.models.device_map import Placement, places_of
from prunescope.pipelines.models.load import check_device, load_decoder
from prunescope.pipelines.models.sources import count_weights
from prunescope.pipelines.models.weight_offload import data_of, on_device, swapped_data
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.studies.evaluation_specs import TaskSpec
from tests.pipelines.models.low_memory import FEW, RECIPES, computed
from tests.tiny_models import DECODERS, save_tiny

# Nearly all weights are in the layers, and one layer has a thirtieth of them.
LARGE = {"hidden_size": 256, "intermediate_size": 1536, "num_hidden_layers": 30}
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def streamed(tiny_folder: Path) -> Decoder:
    return load_decoder(tiny_folder, device="cpu", memory={})


def placeholders(decoder: Decoder) -> set[bool]:
    """Return for each matrix of a decoder if it is a placeholder (NaN), because its weights are on disk."""
    return {bool(matrix.parameter.isnan().all()) for matrix in decoder.matrices.values()}


# Layers of any form give equal states, below; test_checkpoint.py writes the same file with layers on disk.
@pytest.mark.exhaustive
def test_layers_on_disk_change_no_result_of_a_study(tiny_folder: Path, streamed: Decoder, tmp_path: Path) -> None:
    decoders = {"whole": load_decoder(tiny_folder, device="cpu"), "streamed": streamed}
    found = {name: computed(decoder, RECIPES) for name, decoder in decoders.items()}
    assert found["whole"][1].keys() == found["streamed"][1].keys()
    for name, rows in found["whole"][1].items():
        assert rows.equals(found["streamed"][1][name]), name
    asked = (TaskSpec(name="openbookqa", samples=1), TaskSpec(name="gsm8k", samples=1, shots=0, max_new_tokens=2))
    for recipe in ("wanda-2of4", "attn-drop-1+wanda-50", "noise-bfloat16"):
        scored = [
            TaskSession(decoder, asked, allows_code=False).score(recipe, found[name][0][recipe], None)["task_samples"]
            for name, decoder in decoders.items()
        ]
        assert scored[0].equals(scored[1])
    assert placeholders(streamed) == {True}
    for recipe in ("wanda-2of4", "attn-drop-1+wanda-50"):
        about = About("tiny", "tiny", "0" * 64, recipe, "", "{}", {}, [])
        for name, decoder in decoders.items():
            (tmp_path / name).mkdir(exist_ok=True)
            export(decoder, found[name][0][recipe], tmp_path / name / recipe, about)
        written = [(tmp_path / name / recipe / "model.safetensors").read_bytes() for name in decoders]
        assert written[0] == written[1]


@pytest.mark.exhaustive  # the test above shows equal numbers; this one with a real limit takes half a minute
def test_a_model_larger_than_memory_is_measured_and_written(tiny_folder: Path, tmp_path: Path) -> None:
    large = save_tiny(tmp_path / "large", shard="2MB", **LARGE)
    size, out = count_weights(large) * 4, tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "tests.pipelines.models.low_memory", large, out, tiny_folder, size * 2 // 3]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory" in (out / "message").read_text(encoding="utf-8")  # the whole model does not fit
    for name, rows in computed(load_decoder(large, device="cpu"), FEW)[1].items():
        assert rows.equals(pl.read_ipc(out / f"{name}.arrow")), name


@pytest.mark.parametrize("architecture", ["mixtral", "gpt2", "recurrent_gemma"])
def test_layers_of_any_form_are_loaded_for_their_forward_pass(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    half = count_weights(folder) * 2
    whole, parted = load_decoder(folder, device="cpu"), load_decoder(folder, device="cpu", memory={"cpu": half})
    tokens = probe_tokens(whole, 20)
    assert torch.equal(whole.hidden(tokens), parted.hidden(tokens))
    assert placeholders(parted) == {True, False}
    assert {name: each.shape for name, each in whole.matrices.items()} == {
        name: each.shape for name, each in parted.matrices.items()
    }
    assert all(torch.equal(each.weight, parted.matrices[name].weight) for name, each in whole.matrices.items())


def test_weights_are_released_after_a_layer_has_run(streamed: Decoder) -> None:
    streamed.hidden(probe_tokens(streamed, 4))
    assert placeholders(streamed) == {True}
    with on_device(streamed.layers[1].module):
        assert not any(parameter.isnan().any() for parameter in streamed.layers[1].module.parameters())
    assert placeholders(streamed) == {True}


def test_an_error_in_a_layer_releases_its_weights(streamed: Decoder) -> None:
    with pytest.raises(RuntimeError, match="stop"), on_device(streamed.layers[0].module):
        raise RuntimeError("stop")
    assert placeholders(streamed) == {True}


def test_the_last_of_several_threads_releases_the_weights(streamed: Decoder) -> None:
    matrix, together = next(iter(streamed.matrices.values())), threading.Barrier(4)
    seen: list[bool] = []

    def work() -> None:
        for _ in range(50):
            with on_device(matrix.parameter):
                together.wait()
                seen.append(bool(matrix.parameter.isnan().any()))
                together.wait()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 200
    assert not any(seen)
    assert placeholders(streamed) == {True}


def test_weights_set_during_a_pass_are_used(streamed: Decoder) -> None:
    parameter = next(iter(streamed.matrices.values())).parameter
    before, other = parameter.data, torch.ones(parameter.shape)
    parameter.data = other
    assert torch.equal(data_of(parameter), other)
    with on_device(parameter):
        assert torch.equal(parameter, other)
    assert torch.equal(parameter, other)
    parameter.data = before


def test_a_released_model_removes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    decoder = load_decoder(save_tiny(tmp_path / "mixtral", "mixtral"), device="cpu", memory={})
    assert list(scratch.rglob("*.safetensors"))  # stacked experts have another form on disk
    model = weakref.ref(decoder.model)
    del decoder
    gc.collect()
    assert model() is None
    assert not list(scratch.glob("prunescope-*"))


class _WithSide(LlamaForCausalLM):
    """A model with a parameter beside its layers, as in HrmText and XLNet."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.side, self.model.side = (nn.Parameter(torch.ones(64)) for _ in range(2))


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")  # but parameters
def test_a_parameter_beside_the_layers_has_a_place(tmp_path: Path) -> None:
    config = LlamaConfig(**DECODERS["llama"])
    _WithSide(config).save_pretrained(tmp_path)
    with torch.device("meta"):
        meta = _WithSide(config)
    placed = Placement(meta, 3, {}, torch.float32, torch.device("cpu")).arguments()
    model = _WithSide.from_pretrained(tmp_path, **placed)
    assert torch.equal(model.side, torch.ones(64))
    assert torch.equal(model.model.side, torch.ones(64))


def test_devices_are_filled_in_order_and_the_rest_stays_on_disk() -> None:
    with torch.device("meta"):
        layers = nn.ModuleList(nn.Linear(10, 10, bias=False) for _ in range(7))
    limits = {"cuda:0": 900, "cuda:1": 399, "cuda:2": 400, "cpu": 1200}
    assert places_of(layers, limits, torch.float32) == ["cuda:0"] * 2 + ["cuda:2"] + ["cpu"] * 3 + ["disk"]
    assert places_of(layers, limits, torch.bfloat16)[:5] == ["cuda:0"] * 4 + ["cuda:1"]
    assert places_of(layers, {}, torch.float32) == ["disk"] * 7


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "available_bytes", lambda device: 100_000)
    with pytest.raises(InputError, match=r"weights take 0.0 GiB in float32 .*`memory: {cpu: 0MiB}` .*bfloat16"):
        load_decoder(tiny_folder, device="cpu")
    assert load_decoder(tiny_folder, device="cpu", memory={}).is_streamed


@pytest.mark.parametrize(
    ("device", "memory", "message"),
    [
        ("cpu", {"cuda:0": 1}, "memory: cuda:0 is named, but `device` is cpu"),
        ("auto", {"cuda:63": 1}, "memory cuda:63: torch sees"),
        ("cuda:63", None, "device cuda:63: torch sees"),
    ],
)
def test_missing_devices_are_refused(device: str, memory: dict[str, int] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_device(device, memory)


def test_a_parameter_that_occurs_twice_gets_its_first_data_back_after_an_error_too() -> None:
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(3))
    first, second = one.data.data_ptr(), other.data.data_ptr()

    def interrupted() -> None:
        with swapped_data([one, other, one], lambda each: each.data + 5):
            assert (one.tolist(), other.tolist()) == ([11.0, 11.0], [5.0, 5.0, 5.0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (one.data.data_ptr(), other.data.data_ptr()) == (first, second)
