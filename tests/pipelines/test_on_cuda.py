"""The pipelines on test devices: the numbers of the CPU, and how often the host waits for a device."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.retrieval.retrieval_session import RetrievalSession
from prunescope.pipelines.evaluation.search.effects import EffectEngine
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.search import Search
from prunescope.pipelines.evaluation.search.step_time import step_milliseconds
from prunescope.pipelines.evaluation.speed import speed_rows
from prunescope.pipelines.evaluation.tasks.lm_eval_model import VariantLM
from prunescope.pipelines.evaluation.tasks.score import TaskSession
from prunescope.pipelines.evaluation.traces.sampled_texts import SamplingSession
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.load import enough_memory, load_decoder
from prunescope.pipelines.models.sources import count_weights
from prunescope.pipelines.pruning import variant_patching
from prunescope.pipelines.pruning.apply import prune, prune_all
from prunescope.pipelines.pruning.calibration.statistics import calibrate, calibration_tokens
from prunescope.pipelines.pruning.checkpoints.export_checkpoint import export
from prunescope.pipelines.pruning.checkpoints.model_card import About
from prunescope.pipelines.pruning.pruning_inputs import Statistics
from prunescope.pipelines.pruning.variant import Variant
from prunescope.pipelines.recipes import ExternalRecipe, parse_recipe
from prunescope.pipelines.studies import CalibrationSpec, Study
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec, SpeedSpec, TaskSpec
from prunescope.pipelines.studies.search_spec import SearchSpec
from tests.cuda_device import Devices, cuda_devices
from tests.pipelines.evaluation.search.engine import items_of, menu_of
from tests.pipelines.models.low_memory import computed
from tests.tiny_models import ARCHITECTURES, SHORT_TEXT, save_tiny, tiny_tokenizer

GPU = "cuda:0"
EXHAUSTIVE = pytest.mark.exhaustive
METHODS = (
    *("magnitude-50", "magnitude-50-owl", "wanda-2of4", "wanda-50-owl", "ria-50", "sparsegpt-50", "sparsegpt-2of4"),
    *("admm-50", "wanda-50+admm", "wanda-50+dsnot", "rtn-4bit", "gptq-3bit-g64", "gptq-4bit", "awq-4bit"),
    *("neurons-25", "neurons-25-magnitude", "neurons-25-flap", "heads-50", "heads-50-magnitude", "flap-20"),
    *("attn-drop-1", "mlp-drop-1-greedy", "block-drop-1-iterative", "block-drop-1-consecutive"),
    "{name: rows, method: sparsegpt, sparsity: 0.5, group: output}",
)
# Each has a relative below that runs in `make test`, or a checkpoint.
RELATED = {
    *("magnitude-50-owl", "wanda-2of4", "sparsegpt-50", "wanda-50+admm", "gptq-4bit"),
    *("neurons-25-magnitude", "heads-50-magnitude", "flap-20"),
}
MIXED = "{name: mine, method: mixed, predecessors: dense, treatments: {attn.0: drop, mlp.1: wanda-50}}"
CALIBRATION = CalibrationSpec(source=SHORT_TEXT, sequences=4, length=32)
FEW = ("dense", "noise-bfloat16", "rtn-4bit+wanda-50", "attn-drop-1+flap-20")


@pytest.fixture
def devices() -> Iterator[Devices]:
    with cuda_devices(1 << 30, 1 << 30) as own:
        yield own


@pytest.fixture
def gpu(request: pytest.FixtureRequest) -> None:
    """Give a test device, or with `-m cuda` the first GPU of this machine."""
    if request.config.getoption("markexpr") != "cuda":
        request.getfixturevalue("devices")
    elif not torch.cuda.is_available():
        pytest.exit("torch sees no CUDA device here; run `make test-gpu` on a machine with one", 2)


def assert_close(found: pl.DataFrame, expected: pl.DataFrame, name: str = "") -> None:
    """Compare tables to float32 rounding: other kernels sum in another order."""
    assert found.schema == expected.schema
    if "state" in expected.columns:  # float16 in units of the row's scale
        value = pl.col("state").cast(pl.Float64) * pl.col("scale")
        found, expected = (each.explode("state").with_columns(value).drop("scale") for each in (found, expected))
    for column in expected.columns:
        own, other, place = found[column].explode(), expected[column].explode(), f"{name} {column}"
        if other.dtype.is_float():
            atol = 1e-3 * (np.abs(other.to_numpy()).max(initial=0)) if column == "state" else 2e-5
            np.testing.assert_allclose(own.to_numpy(), other.to_numpy(), rtol=1e-3, atol=atol, err_msg=place)
        else:
            assert own.to_list() == other.to_list(), place


def on_both(folder: Path) -> tuple[Decoder, Decoder]:
    """Load a model on a test device and on the CPU."""
    return load_decoder(folder, device=GPU), load_decoder(folder, device="cpu")


def pruned(decoder: Decoder, *recipes: str) -> dict[str, Variant]:
    """Calibrate a model and return its variants."""
    seen = calibrate(decoder, CALIBRATION, "tiny")
    tokens = calibration_tokens(decoder.tokenizer, CALIBRATION)
    found = prune_all(
        decoder,
        [parse_recipe(recipe) for recipe in recipes],
        Statistics(seen.activation_stats, seen.block_influence, tokens),
    )
    for variant in found.values():
        if not isinstance(variant, Variant):
            raise variant
    return found


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *(pytest.param(name, "float32", marks=() if name == "llama" else EXHAUSTIVE) for name in ARCHITECTURES),
        ("llama", "bfloat16"),
    ],
)
def test_every_table_of_a_study_has_the_numbers_of_the_cpu(
    gpu: None, architecture: str, dtype: str, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / architecture, architecture)
    decoder = load_decoder(folder, dtype, GPU)
    assert {parameter.device.type for parameter in decoder.model.parameters()} == {"cuda"}
    recipes = FEW if dtype == "float32" else ("dense", "rtn-4bit+wanda-50")
    found, expected = computed(decoder, recipes)[1], computed(load_decoder(folder, dtype, "cpu"), recipes)[1]
    assert found.keys() == expected.keys()
    for name, frame in expected.items():
        own, other = (each.drop("variant_hash", strict=False) for each in (found[name], frame))
        if name.startswith("noise") and "scope" in other.columns:
            # A number in the middle between two of bfloat16 goes either way, after sums in another order.
            alone, size = pl.col("scope") != "propagated", "norm_dh" if "norm_dh" in other.columns else "scale"
            ratio = own.filter(alone)[size] / other.filter(alone)[size]
            assert ratio.median() == pytest.approx(1, abs=1e-3)
            assert ratio.is_between(0.5, 2).all()
            own, other = own.filter(~alone), other.filter(~alone)
        assert_close(own, other, name)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "methods", [[name for name in METHODS if name not in RELATED], pytest.param(METHODS, marks=EXHAUSTIVE)]
)
def test_every_method_prunes_the_same_weights(gpu: None, tmp_path: Path, methods: Sequence[str]) -> None:
    folder = save_tiny(tmp_path / "llama", num_hidden_layers=2)
    found, expected = (pruned(each, *methods, MIXED) for each in on_both(folder))
    decoder = load_decoder(folder, device="cpu")
    for name, variant in expected.items():
        assert found[name].dropped == variant.dropped, name
        assert found[name].changes.keys() == variant.changes.keys(), name
        for matrix, change in variant.changes.items():
            dense = decoder.matrices[matrix].weight
            own, other = found[name].changes[matrix].weight(dense), change.weight(dense)
            # Sums in another order choose otherwise between a few weights that are nearly equal.
            differs = ~torch.isclose(own, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
            assert differs.float().mean() < 0.01, f"{name} {matrix}"


@pytest.mark.cuda
def test_tasks_samples_retrieval_and_searches_have_the_numbers_of_the_cpu(
    gpu: None, tiny_folder: Path, tmp_path: Path
) -> None:
    tasks = (TaskSpec(name="openbookqa", samples=2), TaskSpec(name="gsm8k", samples=2, shots=0, max_new_tokens=4))
    study = Study.model_validate(
        {
            "name": "tiny",
            "models": [{"name": "tiny", "source": str(tiny_folder)}],
            "recipes": ["dense"],
            "prompts": [{"id": "a", "kind": "open", "text": "Why is the sky blue?"}],
            "decoding": {"samples": 2, "temperature": 0.7, "top_p": 0.9},
            "generation": {"new_tokens": 6},
        }
    )
    spec = SearchSpec(remove=(0.2,), menu=("magnitude-20", "magnitude-60", "drop"), measurements=2, minutes=5)
    collection = RetrievalSpec(name="python-help", max_queries=4, max_documents=6, max_length=24)
    by_mean = collection.model_copy(update={"pooling": "mean"})
    tables = []
    for decoder in on_both(tiny_folder):
        variant = prune(decoder, parse_recipe("magnitude-50"), Statistics())
        scored = TaskSession(decoder, tasks, allows_code=False).score("magnitude-50", variant, None)
        journal = Journal(tmp_path / str(decoder.device.type), "a")
        menu = menu_of(decoder, *(spec.menu or ()))
        found = Search(decoder, spec, lambda *_, menu=menu: menu, items_of(decoder, 3, 20), journal).run()
        tables.append(
            scored
            | SamplingSession(decoder, "tiny", study).trace("magnitude-50", variant)
            | RetrievalSession(decoder, "tiny", [collection]).measure("magnitude-50", variant)
            | {
                f"{name} by mean": frame
                for name, frame in RetrievalSession(decoder, "tiny", [by_mean]).measure("mine", variant).items()
            }
            | {"search_effects": found.effects.drop("seconds"), "search_trials": found.trials.drop("seconds")}
        )
    for name, frame in tables[1].items():
        assert_close(tables[0][name], frame, name)


def test_speed_and_memory_are_those_of_the_device(devices: Devices, tiny_folder: Path) -> None:
    decoder = load_decoder(tiny_folder, device=GPU)
    weights = sum(parameter.nbytes for parameter in decoder.model.parameters())
    assert weights <= devices.allocated[0] < 1.1 * weights + 100_000
    row = speed_rows(
        decoder, "attn-drop-1", Variant(dropped=("attn.1",)), [SpeedSpec(length=8, new_tokens=2, repeats=1)]
    ).row(0, named=True)
    assert row["machine"] == "test device 0"
    assert 0 < row["peak_memory_bytes"] < devices.peak[0]
    assert step_milliseconds(decoder).keys() == {sublayer.label for sublayer in decoder.sublayers}


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("recipe", "shrink"),
    [
        ("magnitude-2of4", False),
        ("attn-drop-1+rtn-4bit", False),
        ("neurons-25-magnitude", True),
        ("heads-50-magnitude", True),
        ("flap-20", False),
    ],
)
def test_a_checkpoint_has_the_weights_of_the_cpu(
    gpu: None, tiny_folder: Path, tmp_path: Path, recipe: str, shrink: bool
) -> None:
    written = []
    for decoder in on_both(tiny_folder):
        place = tmp_path / decoder.device.type
        about = About("tiny", "tiny", "0" * 64, recipe, "", "{}", {}, [])
        export(decoder, pruned(decoder, recipe)[recipe], place, about, shrink=shrink)
        written.append(load_file(place / "model.safetensors"))
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][name], tensor) for name, tensor in written[1].items())


@pytest.mark.cuda
def test_a_checkpoint_made_elsewhere_is_the_variant_of_the_cpu(gpu: None, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "llama", num_hidden_layers=3)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        layers = model.model.layers
        layers[0].mlp.up_proj.weight[::2] = 0
        layers[2].self_attn.o_proj.weight.mul_(1.5)
        layers[2].input_layernorm.weight.add_(0.5)
        del model.model.layers[1]
    model.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    recipe = ExternalRecipe(name="theirs", source=str(tmp_path / "other"))
    found, expected = (prune(decoder, recipe, cache=tmp_path / "cache") for decoder in on_both(folder))
    assert expected.dropped == ("attn.1", "mlp.1")
    assert len(expected.changes) == 2
    assert found.hash == expected.hash
    assert {value.device.type for value in found.parameters.values()} == {"cpu"}


def test_layers_on_two_devices_in_memory_and_on_disk_have_the_numbers_of_the_cpu(
    devices: Devices, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "llama", num_hidden_layers=4)
    whole = load_decoder(folder, device="cpu")
    layer = sum(parameter.nbytes for parameter in whole.layers[0].module.parameters())
    decoder = load_decoder(folder, device=GPU, memory={"cuda:0": layer, "cuda:1": layer, "cpu": layer})
    assert decoder.is_streamed
    assert layer <= devices.allocated[1] < 2 * layer
    recipes = ("flap-20", "block-drop-2-consecutive")  # noise runs on one device
    found, expected = computed(decoder, recipes)[1], computed(whole, recipes)[1]
    for name, frame in expected.items():
        assert_close(found[name].drop("variant_hash", strict=False), frame.drop("variant_hash", strict=False), name)
    effects = [
        EffectEngine(each, menu_of(each, "magnitude-40"), items_of(each, 2, 20)).measure(
            [(sublayer.label, "magnitude-40") for sublayer in each.sublayers]
        )
        for each in (decoder, whole)
    ]
    np.testing.assert_allclose(effects[0].kl, effects[1].kl, rtol=1e-3)


def test_changed_weights_stay_together_where_half_of_the_free_memory_holds_them(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_patching, "MAX_CHANGED_BYTES", 0)
    variant = prune(load_decoder(tiny_folder, device="cpu"), parse_recipe("magnitude-50"), Statistics())
    added = []
    for size in (1 << 30, int(2.2 * count_weights(tiny_folder) * 4)):
        with cuda_devices(size) as devices:
            decoder = load_decoder(tiny_folder, device=GPU)
            before = devices.allocated[0]
            for each in (decoder, replace(decoder, split=2), replace(decoder, memory={})):
                with variant_patching.apply_variant(each, variant):
                    added.append(devices.allocated[0] - before)
    # Not after memory ran out, and not with layers elsewhere.
    assert added == [sum(matrix.size for matrix in decoder.matrices.values()) * 4, 0, 0, 0, 0, 0]


def test_rows_computed_again_in_float64_read_targets_of_the_host(devices: Devices) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x, dx = (torch.randn(n, 24, generator=draw) for n in (300, 3, 3))
    targets = torch.tensor([5, 7, 299])
    columns = [
        divergence(x.to(device), 1e-7 * dx.to(device), OutputHead(weight.to(device)), [1.0], targets=targets)
        for device in (GPU, "cpu")
    ]
    for name, values in columns[1].items():
        np.testing.assert_allclose(columns[0][name], values, rtol=1e-3, atol=1e-6, err_msg=name)


def test_ends_of_unequal_length_continue_copies_of_one_cache(devices: Devices, tiny_folder: Path) -> None:
    asked = [("The sky is blue because", end) for end in (" a", " b", " of light and air and dust and water and more")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    found = [VariantLM(decoder).loglikelihood(requests) for decoder in on_both(tiny_folder)]
    np.testing.assert_allclose(*([value for value, _ in each] for each in found), rtol=1e-4)


def test_a_model_larger_than_one_device_is_spread_and_one_larger_than_all_is_refused(tiny_folder: Path) -> None:
    size = count_weights(tiny_folder) * 4
    decoder = load_decoder(tiny_folder, device="cpu")
    layers = sum(parameter.nbytes for layer in decoder.layers for parameter in layer.module.parameters())
    with cuda_devices(size - 1, size):
        limits = enough_memory(tiny_folder, torch.float32, "auto")
        # The embedding and the head, on the first device, too, leave less room for its layers.
        assert limits == {"cuda:0": round(0.9 * (size - 1)) - (size - layers), "cuda:1": round(0.9 * size)}
        assert enough_memory(tiny_folder, torch.bfloat16, "auto") is None
    with cuda_devices(size // 2), pytest.raises(InputError, match="set `memory: {cuda:0: "):
        load_decoder(tiny_folder, device="auto")
