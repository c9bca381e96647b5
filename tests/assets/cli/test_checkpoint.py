"""`prunescope checkpoint` and `prune`: folders that transformers opens, or one message and no file."""

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunescope.assets.cli.application import run
from prunescope.assets.cli.checkpoint import prune
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.pruning.checkpoints.output_directory import unfinished_directory
from prunescope.pipelines.pruning.layer_checkpoints import LayerFiles
from prunescope.pipelines.recipes.calibration import CalibrationSpec
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import partitions
from tests.tiny_models import SHORT_TEXT

Capture = pytest.CaptureFixture[str]


def command(*arguments: object) -> int:
    return run([str(argument) for argument in arguments], Globals())


def front_matter(folder: Path) -> tuple[dict[str, object], str]:
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def zeros(folder: Path) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return [float((p == 0).float().mean()) for name, p in model.named_parameters() if name.endswith("proj.weight")]


def test_a_variant_of_the_warehouse_becomes_a_folder_with_its_scores(
    warehouse: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = partitions(warehouse)
    out = tmp_path / "wanda"
    assert command("checkpoint", "tiny-a@wanda-2of4", out, "--warehouse", warehouse) == 0
    shown = capsys.readouterr()
    assert "plain transformers gives the same logits" in shown.err
    assert not shown.out
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "a file that others cannot read"
    assert {path.name for path in out.iterdir()} >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"
    }  # fmt: skip
    assert set(zeros(out)) == {0.5}
    stored = Store(warehouse).read(TABLES["variants"], "tiny-a", "wanda-2of4").to_pylist()
    about = json.loads((out / "prunescope.json").read_text())
    assert [about] == [{name: row[name] for name in ("model", "recipe", "variant_hash")} for row in stored]
    assert AutoTokenizer.from_pretrained(out)("Why?").input_ids
    front, text = front_matter(out)
    assert front["library_name"] == "transformers"
    assert '"method": "wanda"' in text
    assert "(50.00%)" in text
    for measured in (
        "median KL(dense‖pruned) on the prompts",
        "first token that differs",
        "perplexity on help, pruned",
        "| verdict | too little evidence: same tokens: ",
    ):
        assert measured in text
    assert str(tmp_path) not in text + (out / "config.json").read_text()
    assert partitions(warehouse) == before


def test_the_card_names_a_dropped_sublayer(warehouse: Path, tmp_path: Path) -> None:
    assert command("checkpoint", "tiny-a@attn-drop-1", tmp_path / "out", "--warehouse", warehouse) == 0
    assert "with zeros in their last matrices" in front_matter(tmp_path / "out")[1]


def test_the_card_lists_the_matrices_of_a_mixture(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = (
        "{name: mine, method: mixed, predecessors: dense, treatments: {attn.2.q_proj: wanda-30, attn.1: drop, "
        "attn.0.k_proj: wanda-40, mlp.0: magnitude-50}}"
    )
    options = ["--calibration", f"{{source: {SHORT_TEXT}, sequences: 4, length: 32}}"]
    assert command("prune", tiny_folder, "-r", recipe, "-o", out, *options) == 0
    assert (
        "| Treatments | wanda of attn.0.k_proj, attn.2.q_proj; magnitude of mlp.0; drop of attn.1; "
        "the other matrices are dense |"
    ) in front_matter(out)[1]
    model = AutoModelForCausalLM.from_pretrained(out)
    shares = {name: float((own == 0).float().mean()) for name, own in model.named_parameters() if own.dim() == 2}
    zeros_of = {name.removeprefix("model.layers.").removesuffix("_proj.weight"): own for name, own in shares.items()}
    assert {name: own for name, own in zeros_of.items() if own > 0.01} == pytest.approx(
        {
            "0.self_attn.k": 0.4,
            "2.self_attn.q": 0.3,
            "1.self_attn.o": 1.0,
            **dict.fromkeys(("0.mlp.gate", "0.mlp.up", "0.mlp.down"), 0.5),
        },
        abs=0.01,
    )


def test_a_mixture_becomes_a_folder_with_its_treatments_dequantized(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = (
        "{name: mine, method: mixed, treatments: {attn.0: sparsegpt-30, mlp.0: drop, attn.1: wanda-2of4, "
        "mlp.1: drop, attn.2: rtn-4bit}}"
    )
    options = ["--calibration", f"{{source: {SHORT_TEXT}, sequences: 4, length: 32}}"]
    assert command("prune", tiny_folder, "-r", recipe, "-o", out, *options) == 0
    text = front_matter(out)[1]
    assert "| Recipe | `mine` (mixed) |" in text
    assert (
        "| Treatments | sparsegpt of attn.0; drop of mlp.0, mlp.1; wanda of attn.1; rtn of attn.2; "
        "the other sublayers are dense |"
    ) in text
    assert "The weights of 4 quantized matrices are stored dequantized, in float32." in text
    assert '"mlp.1": "drop"' in text
    weights = {
        name: float((p == 0).float().mean()) for name, p in AutoModelForCausalLM.from_pretrained(out).named_parameters()
    }
    assert weights["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(0.3, abs=0.01)
    assert weights["model.layers.1.self_attn.q_proj.weight"] == 0.5
    assert weights["model.layers.0.mlp.down_proj.weight"] == 1
    assert weights["model.layers.2.mlp.down_proj.weight"] == 0
    rows = AutoModelForCausalLM.from_pretrained(out).model.layers[2].self_attn.q_proj.weight
    assert max(len(row.unique()) for row in rows) <= 16
    # A sublayer that the model lacks leaves no folder.
    missing = "{name: mine, method: mixed, treatments: {attn.0: rtn-4bit, mlp.7: drop}}"
    assert command("prune", tiny_folder, "-r", missing, "-o", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.exhaustive  # test_every_decoder.py prunes, other tests here write checkpoints
def test_prune_needs_no_warehouse_and_calibrates_where_needed(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder counts as none
    options = ["--calibration", "{source: wikitext2, sequences: 2, length: 16, seed: 3}"]
    assert command("prune", tiny_folder, "-r", "block-drop-1+wanda-50", "-o", out, *options) == 0
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
    assert "Layers" in capsys.readouterr().err
    text = front_matter(out)[1]
    assert "| Calibration: source | wikitext2 |" in text
    assert "Nothing was measured." in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_prune_takes_the_calibration_options_of_a_study(tiny_folder: Path, tmp_path: Path) -> None:
    size = "sequences: 2, length: 16"
    said = f"source: {SHORT_TEXT}, documents: single, template: true, dtype: bfloat16"
    plain = f"{{source: {SHORT_TEXT}, {size}}}"
    assert command("prune", tiny_folder, "-r", "wanda-50", "-o", tmp_path / "plain", "--calibration", plain) == 0
    more = f"{{{said}, {size}}}"
    assert command("prune", tiny_folder, "-r", "wanda-50", "-o", tmp_path / "more", "--calibration", more) == 0
    text = front_matter(tmp_path / "more")[1]
    for told in ("documents | single", "template | True", "dtype | bfloat16"):
        assert f"| Calibration: {told} |" in text
    inside = f"{{name: w, method: wanda, sparsity: 0.5, calibration: {{{said}}}}}"
    elsewhere = ["--calibration", f"{{source: wikitext2, {size}}}"]
    assert command("prune", tiny_folder, "-r", inside, "-o", tmp_path / "inside", *elsewhere) == 0
    assert str(Path(SHORT_TEXT).parent) not in (tmp_path / "inside" / "README.md").read_text()
    plain, other, same = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("plain", "more", "inside"))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(plain.get_parameter(name), other.get_parameter(name))
    assert torch.equal(same.get_parameter(name), other.get_parameter(name)), "a recipe may say it as well"


def test_prune_with_layers_on_disk_writes_the_same_folder(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    options = ["-r", "wanda-2of4", "--calibration", f"{{source: {SHORT_TEXT}, sequences: 2, length: 16}}"]
    for name, memory in (("whole", []), ("streamed", ["--memory", "cpu=50kB"])):
        assert command("prune", tiny_folder, *options, "-o", tmp_path / name, *memory) == 0
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "streamed")]
    assert written[0] == written[1]
    capsys.readouterr()
    assert command("prune", tiny_folder, *options, "-o", tmp_path / "no", "--memory", "8GiB") == 2
    assert "--memory: '8GiB': write a device and a size, such as cpu=8GiB" in capsys.readouterr().err


@pytest.mark.exhaustive  # test_layerwise.py kills a run and resumes it at its layer
@pytest.mark.parametrize("recipe", ["attn-drop-1+wanda-50", "sparsegpt-50"])
def test_an_interrupted_prune_resumes_at_its_last_layer(
    recipe: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["prune", tiny_folder, "-r", recipe, "--calibration", "{sequences: 2, length: 16}", "-o"]
    assert command(*options, tmp_path / "whole") == 0
    written: list[int] = []
    write = LayerFiles.write

    def interrupted_after_two(self: LayerFiles, layer: int, *what: Any) -> None:
        write(self, layer, *what)
        written.append(layer)
        if written == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(LayerFiles, "write", interrupted_after_two)
    assert command(*options, tmp_path / "out") == 130
    assert {path.name for path in tmp_path.iterdir()} == {"whole", ".out.unfinished"}
    assert command(*options, tmp_path / "out") == 0
    assert written == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out"))
    assert one == two


def test_two_runs_cannot_prune_into_one_folder(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    with unfinished_directory(tmp_path / "out"):
        assert command("prune", tiny_folder, "-r", "magnitude-50", "-o", tmp_path / "out") == 2
    assert "another run is at work on it" in capsys.readouterr().err


def test_prune_takes_a_recipe_in_yaml_and_writes_the_stored_type(tiny_folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_folder, half)
    AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).save_pretrained(half)
    recipe = "{name: mine, method: magnitude, sparsity: 0.25}"
    assert command("prune", half, "--recipe", recipe, "-o", tmp_path / "out") == 0
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert written.dtype == torch.bfloat16
    assert zeros(tmp_path / "out") == pytest.approx([0.25] * 21, abs=1e-3)


def test_a_moved_model_is_accepted_at_its_new_path_and_another_model_refused(
    computed_once: Path, other_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    moved, out = shutil.copytree(tiny_folder, tmp_path / "moved"), tmp_path / "out"
    place = ["--warehouse", computed_once, "--model-source"]
    assert command("checkpoint", "tiny-a@magnitude-50", out, *place, tmp_path / "gone") == 2
    assert command("checkpoint", "tiny-a@magnitude-50", out, *place, other_folder) == 2
    assert "these are not the weights" in capsys.readouterr().err
    assert not out.exists()
    # One model alone has the recipe.
    assert command("checkpoint", "magnitude-50", out, *place, moved) == 0


def full(tmp_path: Path) -> Path:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    return tmp_path / "full"


def wanda(model: Path, tmp_path: Path) -> list[object]:
    return ["prune", model, "-r", "wanda-50", "-o", tmp_path / "out", "--calibration"]


Case = Callable[[Path, Path, Path], list[object]]
WRONG: list[tuple[Case, str]] = [
    (lambda w, m, t: ["checkpoint", "tiny-a@wanda-2of4", full(t), "--warehouse", w], "full: is not empty"),
    (lambda w, m, t: ["checkpoint", "tiny-a@wanda-2of4", t / "a" / "b", "--warehouse", w], "does not exist; make it"),
    (lambda w, m, t: ["checkpoint", "tiny-a", t / "out", "--warehouse", w], "there is no variant 'tiny-a'; "),
    (
        lambda w, m, t: ["checkpoint", "tiny-a@wanda-60", t / "out", "--warehouse", w],
        "no variant 'tiny-a@wanda-60'; did you mean 'tiny-a@wanda-2of4'",
    ),
    (lambda w, m, t: ["checkpoint", "tiny-a@dense", t / "out", "--warehouse", w], "nothing was pruned in it"),
    (
        lambda w, m, t: ["checkpoint", "a@b", t / "out", "--warehouse", t / "none"],
        "none; name another with --warehouse",
    ),
    (lambda w, m, t: ["checkpoint", "tiny-a@wanda-2of4", t / "out", "--warehouse", w, "--shrink"], "no neuron or head"),
    (lambda w, m, t: ["prune", t / "no", "-r", "wanda-50", "-o", t / "out"], "no such folder or file"),
    (lambda w, m, t: ["prune", m, "-r", "lottery-50", "-o", t / "out"], "unknown recipe 'lottery-50'"),
    (lambda w, m, t: ["prune", m, "-r", "dense", "-o", t / "out"], "prunes nothing"),
    (lambda w, m, t: ["prune", m, "-r", "magnitude-50", "-o", full(t)], "full: is not empty"),
    (lambda w, m, t: ["prune", m, "-r", "magnitude-2of7", "-o", t / "out"], "multiple of 7"),
    (lambda w, m, t: ["prune", m, "-r", "block-drop-3", "-o", t / "out", "--calibration", "{length: 8}"], "drop fewer"),
    (
        lambda w, m, t: [*wanda(m, t), "{length: 999}"],
        "`calibration.length` 999 is over the model's context of 128 tokens; give at most 128",
    ),
    (lambda w, m, t: [*wanda(m, t), f"{{source: {t / 'x'}, length: 8}}"], "calibration source"),
    (lambda w, m, t: [*wanda(m, t), "hf:x"], "--calibration: `source`: "),
    (lambda w, m, t: [*wanda(m, t), ""], "--calibration: `source`: "),
    (lambda w, m, t: [*wanda(m, t), "{sequences: 200_000}"], "--calibration: `sequences`: must be 100,000 or less"),
    (lambda w, m, t: [*wanda(m, t), "{sequences: 10_000, length: 8000}"], "is over 67,108,864 tokens"),
    (lambda w, m, t: [*wanda(m, t), f"{{seed: {-(2**63) - 1}}}"], "--calibration: `seed`: must be 0 or more"),
    (lambda w, m, t: [*wanda(m, t), "{documents: some}"], "--calibration: `documents`: 'some' is none of"),
    (lambda w, m, t: [*wanda(m, t), "{dtype: int8}"], "'int8' is none of 'model', 'float32' or 'bfloat16'"),
    (lambda w, m, t: [*wanda(m, t), "{lenght: 8}"], "`lenght`: is not a key here; did you mean `length`?"),
    (
        lambda w, m, t: ["prune", m, "-r", "magnitude-50", "-o", t / "out", "--dtype", "int8"],
        "Invalid value for '--dtype'",
    ),
    (lambda w, m, t: ["prune", m, "-r", "magnitude-50", "-o", t / "out", "--device", "cuda:77"], "torch sees"),
    (lambda w, m, t: ["prune", m, "-r", "magnitude-50", "-o", t / "out", "--device", "tpu"], "--device 'tpu'"),
]


@pytest.mark.parametrize(("case", "message"), WRONG)
def test_wrong_input_exits_with_2_one_message_and_no_file(
    case: Case, message: str, computed_once: Path, tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = case(computed_once, tiny_folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_variant_file_writes_nothing(warehouse: Path, tmp_path: Path, capsys: Capture) -> None:
    (file,) = (warehouse / "_variants" / "tiny-a" / "wanda-2of4").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert command("checkpoint", "tiny-a@wanda-2of4", tmp_path / "out", "--warehouse", warehouse) == 2
    assert "run its study again" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damaged_weights_exit_with_1_and_write_nothing(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[0] = float("nan")
    model.save_pretrained(broken)
    assert command("prune", broken, "-r", "magnitude-50", "-o", tmp_path / "out") == 1
    assert "its weights are damaged" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_the_default_calibration_is_that_of_a_study() -> None:
    assert inspect.signature(prune).parameters["calibration"].default == CalibrationSpec().source
