"""`prunescope plan`: its estimates against a run; and that it computes nothing itself."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.assets.planning.steps import MODEL_TABLES
from prunescope.assets.runs.estimate import estimate_model
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import SILENT
from prunescope.pipelines.models.sources import shipped_outline
from prunescope.pipelines.studies import load_study
from prunescope.warehouse.storage.partition_store import Store
from tests.assets.tiny_study import RECIPES, VARIANT_TABLES, StudyFile, partitions
from tests.tiny_models import SHORT_TEXT

Capture = pytest.CaptureFixture[str]


def planned(study: StudyFile, warehouse: Path, capsys: Capture, *more: object) -> tuple[list[dict[str, Any]], str]:
    arguments = ["plan", study.path, "--warehouse", warehouse, "--format", "json", *more]
    assert run([str(argument) for argument in arguments], Globals()) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out), shown.err


def computed(rows: list[dict[str, Any]]) -> dict[str | None, str]:
    """Return the tables to compute, by recipe."""
    return {row["recipe"]: row["computed"] for row in rows if row["computed"]}


def numbers(rows: list[dict[str, Any]], name: str) -> dict[str | None, float]:
    return {row["recipe"]: row[name] for row in rows}


def test_a_broken_model_does_not_keep_the_others_from_being_planned(
    study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    broken = Path(shutil.copytree(study.model, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    study.write(
        models=[{"name": name, "source": str(place)} for name, place in (("b", broken), ("tiny-a", study.model))]
    )
    arguments = ["plan", study.path, "--warehouse", tmp_path / "nothing", "--format", "json"]
    assert run([str(argument) for argument in arguments], Globals()) == 2
    shown = capsys.readouterr()
    assert {row["model"] for row in json.loads(shown.out)} == {"tiny-a"}
    assert "1 failed:" in shown.err
    assert "Traceback" not in shown.err


def test_an_empty_warehouse_needs_everything_and_stays_empty(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    rows, told = planned(study, tmp_path / "nothing", capsys)
    assert computed(rows) == {None: ", ".join(MODEL_TABLES)} | dict.fromkeys(RECIPES, ", ".join(VARIANT_TABLES))
    assert {row["current"] for row in rows} == {None}
    assert not (tmp_path / "nothing").exists()
    assert "it fits" in told
    assert re.search(r"about \d+ s of work: \d+ s by operations at this machine's measured speed", told)
    # The first row has what all variants share.
    assert all(seconds > 0 for seconds in numbers(rows, "seconds").values())
    memory = numbers(rows, "memory_bytes")
    assert memory.pop(None) is None
    assert all(needed > 0 for needed in memory.values())


def test_a_computed_study_is_reused(study: StudyFile, warehouse: Path, capsys: Capture) -> None:
    before = partitions(warehouse)
    rows, told = planned(study, warehouse, capsys)
    current = {None: ", ".join(MODEL_TABLES)} | dict.fromkeys(RECIPES, ", ".join(VARIANT_TABLES))
    assert {row["recipe"]: row["current"] for row in rows} == current
    assert computed(rows) == {}
    assert {*numbers(rows, "seconds").values(), *numbers(rows, "memory_bytes").values()} == {None}
    assert "everything is current; nothing would be computed" in told
    assert partitions(warehouse) == before


def test_a_new_recipe_is_computed_and_the_others_are_reused(study: StudyFile, warehouse: Path, capsys: Capture) -> None:
    rows, told = planned(study, warehouse, capsys, "--recipe", "mlp-drop-1", "--recipe", "magnitude-50")
    assert set(computed(rows)) == {"mlp-drop-1"}
    assert {row["recipe"] for row in rows if row["current"]} == {None, "dense", "magnitude-50"}
    assert {recipe for recipe, needed in numbers(rows, "memory_bytes").items() if needed} == {"mlp-drop-1"}
    # The dense model's texts are decoded again for the new variant.
    assert {recipe for recipe, seconds in numbers(rows, "seconds").items() if seconds} == {None, "mlp-drop-1"}
    # All steps but the own tables' were computed for other variants, with these settings.
    assert re.search(r"about \d+ s of work: \d+ s as long as earlier variants took\n", told)


# Parameters as the models' cards and papers give them.
PUBLISHED = {
    "paper-qwen7b": 7_615_616_512,
    "paper-mistral7b": 7_248_023_552,
    "paper-llama3-8b": 8_030_261_248,
    "paper-llama2-7b": 6_738_415_616,
    "paper-retrieval": 7_110_660_096,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_studies_say_without_a_network_what_they_need_on_one_gpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(source: str, *_: object, **__: object) -> Path:
        raise InputError(f"model {source!r}: cannot be reached")

    monkeypatch.setattr("prunescope.pipelines.models.sources._from_hub", offline)
    study, gpu = load_study(name), 80_000_000_000
    [spec] = study.models
    found = estimate_model(study, Store(tmp_path), SILENT, spec.name, replace=False, gpu=gpu)
    needed = {row["recipe"]: row["memory_bytes"] for row in found.rows}
    assert needed.pop(None) is None
    assert set(needed) == {recipe.name for recipe in study.recipes}
    assert all(2 * PUBLISHED[name] < peak <= gpu for peak in needed.values())
    assert f"weights in {study.dtype} {2 * PUBLISHED[name] / 2**30:.1f} GiB" in " ".join(found.lines)
    assert any("four characters count as a token" in line for line in found.warnings)
    assert any("PFLOP" in line for line in found.lines)
    assert any("74.5 GiB are free: it fits" in line for line in found.lines)
    assert not any("measured speed" in line for line in found.lines)
    small = estimate_model(study, Store(tmp_path), SILENT, spec.name, replace=False, gpu=10**10)
    assert any("DOES NOT FIT" in line for line in small.warnings)


def test_a_model_that_is_not_shipped_cannot_be_planned_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    study = load_study("paper-llama2-7b").replaced(["mine=meta-llama/../Llama-2-7b-hf"], [])
    with pytest.raises(InputError, match="no such folder"):
        estimate_model(study, Store(tmp_path), SILENT, "mine", replace=False, gpu=10**10)
    assert shipped_outline("meta-llama/Llama-2-7b-hf@main") is not None
    assert [shipped_outline(source) for source in ("meta-llama/..", "meta-llama/Llama-2-70b-hf", "embedded")] == [
        None
    ] * 3


def test_a_plan_for_a_gpu_needs_none_and_measures_no_speed(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    rows, told = planned(study, tmp_path / "nothing", capsys, "--gpu", 80)
    assert set(numbers(rows, "seconds").values()) == {None}
    assert "PFLOP in the layers" in told
    assert "measured speed" not in told
    assert "74.5 GiB are free: it fits" in told


@pytest.mark.parametrize("given", ["1e30", "10001", "0.99", "0", "-5", "inf", "nan", "abc", ""])
def test_a_gpu_whose_memory_no_gpu_has_is_refused_by_name(given: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["plan", "demo", f"--gpu={given}", "--warehouse", str(tmp_path)], Globals()) == 2
    assert "Invalid value for '--gpu': Input should be " in capsys.readouterr().err


def test_noise_is_planned_as_part_of_the_study(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    study.write(noise=["bfloat16", "batch"])
    rows, _ = planned(study, tmp_path / "nothing", capsys)
    assert {"noise-bfloat16", "noise-batch"} <= {
        recipe for recipe, needed in numbers(rows, "memory_bytes").items() if needed
    }


def test_a_plan_says_what_time_memory_and_what_it_tells_apart_and_shows_partitions_on_request(
    study: StudyFile, tmp_path: Path, computed_once: Path, capsys: Capture
) -> None:
    assert run(["plan", str(study.path), "--warehouse", str(tmp_path / "nothing"), "--details"], Globals()) == 0
    shown = capsys.readouterr()
    lines = [line.removeprefix("tiny-a: ") for line in shown.err.splitlines() if line.startswith("tiny-a: ")]
    assert lines[0] == f"computes the model's own tables, {', '.join(RECIPES)} (5 partitions; 0 are current)"
    judged = ("same tokens", "right answers in writing", "right answers in choosing", "alive")
    starts = ["about ", "at most ", *(f"{word} will not be judged: " for word in judged)]
    assert [line for line, start in zip(lines[1:], starts, strict=True) if not line.startswith(start)] == []
    assert [name for name in RECIPES if name not in shown.out] == []
    assert "memory_bytes" in shown.out
    assert run(["plan", str(study.path), "--warehouse", str(computed_once)], Globals()) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "everything is current; nothing would be computed\n--details shows every partition" in shown.err


def test_a_plan_reads_only_config_tokenizer_and_weight_headers(
    study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    rows, _ = planned(study, tmp_path / "nothing", capsys)
    folder = Path(shutil.copytree(study.model, tmp_path / "header"))
    weights = folder / "model.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    os.truncate(weights, 8 + header)
    again, told = planned(study, tmp_path / "nothing", capsys, "--model", f"tiny-a={folder}")
    assert computed(again) == computed(rows)
    assert "its weights are not all there" in told
    weights.unlink()
    assert "its weights are not all there" in planned(study, tmp_path / "n", capsys, "--model", f"tiny-a={folder}")[1]


def test_a_plan_says_how_long_written_answers_are_taken_to_be_and_what_it_knows_from_earlier_variants(
    study: StudyFile, warehouse: Path, tmp_path: Path, capsys: Capture
) -> None:
    study.write(tasks=[{"name": "gsm8k", "samples": 2, "shots": 0, "max_new_tokens": 20}])
    _, told = planned(study, tmp_path / "nothing", capsys)
    assert "written answers count with 0.4 of their limit: 8 tokens (gsm8k)" in told
    _, told = planned(study, warehouse, capsys, "--replace", "--recipe", "mlp-drop-1")
    # The other steps of the new variant were computed for others, the task was not.
    assert re.search(r"of work: \d+ s as long as earlier variants took; \d+ s by operations at this machine's", told)


def test_too_little_memory_is_reported_and_no_error(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(study.model, tmp_path / "giant"))
    AutoConfig.for_model(
        "llama", vocab_size=300, hidden_size=65536, intermediate_size=262144, num_hidden_layers=8,
        num_attention_heads=512, num_key_value_heads=64, max_position_embeddings=128,
    ).save_pretrained(folder)  # fmt: skip
    (folder / "model.safetensors").write_bytes(b"")
    rows, told = planned(study, tmp_path / "nothing", capsys, "--model", f"giant={folder}")
    assert numbers(rows, "memory_bytes")["dense"] > 10**12
    assert "IT DOES NOT FIT; none of its variants does" in told


def test_a_plan_says_that_the_loading_of_layers_from_disk_does_not_count(
    study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    assert "the loading" not in planned(study, tmp_path / "nothing", capsys)[1]
    study.write(memory={"cpu": "100kB"})
    _, told = planned(study, tmp_path / "nothing", capsys)
    assert "not counted is the loading of 0.0 GiB of layers for every pass" in told


def as_pickle(study: StudyFile, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study.model, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, ["--model", "nowhere"], "no such folder or file"),
        (as_pickle, ["--model", "./pickled"], "a pickle can run code"),
        (
            lambda study, _: study.write(prompts=[{"id": "long", "kind": "open", "text": "word " * 200}]),
            [],
            "over the model's context of 128",
        ),
        (None, ["--format", "xlsx"], "'xlsx' is not one of 'table', 'csv'"),
        (
            lambda study, _: study.write(name="second", generation={"new_tokens": 5}),
            ["--warehouse", "warehouse"],
            "was computed by study 'tiny'",
        ),
    ],
)
def test_wrong_input_exits_with_2_and_the_fix(
    spoil: Any, options: list[str], message: str, study: StudyFile, tmp_path: Path, warehouse: Path, capsys: Capture
) -> None:
    if spoil:
        spoil(study, tmp_path)
    assert run(["plan", str(study.path), *options], Globals()) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert not shown.out


def test_a_plan_refuses_to_run_programs_where_nothing_confines_them(
    study: StudyFile, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.pipelines.evaluation.tasks.sandbox_client.refusal", lambda: "there is no sandbox")
    study.write(tasks=[{"name": "humaneval", "samples": 1, "max_new_tokens": 8}])
    arguments = ["plan", str(study.path), "--warehouse", str(tmp_path / "nothing")]
    assert run(arguments, Globals()) == 0
    capsys.readouterr()
    assert run([*arguments, "--allow-code-execution"], Globals()) == 2
    assert "--allow-code-execution: there is no sandbox; leave it out" in " ".join(capsys.readouterr().err.split())


def test_a_plan_with_replace_counts_what_a_run_with_it_would_compute(
    study: StudyFile, warehouse: Path, capsys: Capture
) -> None:
    study.write(name="second", generation={"new_tokens": 5})
    rows, _ = planned(study, warehouse, capsys, "--replace")
    tables = {each for names in computed(rows).values() for each in names.split(", ")}
    assert "decoding_steps" in tables
    assert "variants" not in tables


def test_a_plan_names_modules_that_match_no_matrix(study: StudyFile, tmp_path: Path, capsys: Capture) -> None:
    recipes = [
        {"name": name, "method": "magnitude", "sparsity": 0.5, "modules": modules}
        for name, modules in (("fine", ["attn", "*.1.mlp.*"]), ("wrong", ["mlp", "*q_prj"]))
    ]
    treatments = {"attn.0.q_proj": "wanda-30", "mlp.1.upp_proj": "wanda-30", "mlp.2": "drop"}
    recipes.append({"name": "parts", "method": "mixed", "treatments": treatments})
    study.write(recipes=["dense", *recipes])
    _, told = planned(study, tmp_path / "nothing", capsys)
    assert told.count("the model has no") == 1
    assert "tiny-a: recipe parts: the model has no mlp.1.upp_proj; `run` refuses it" in told
    assert told.count("matches no matrix") == 1
    assert "tiny-a: recipe wrong: `modules` '*q_prj' matches no matrix; `run` refuses it" in told


def test_a_plan_names_arguments_that_the_chat_template_does_not_read(
    study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    study.write(models=[{"name": "a", "source": str(study.model), "template_arguments": {"enable_thinking": False}}])
    arguments = ["plan", str(study.path), "--warehouse", str(tmp_path / "nothing")]
    assert run(arguments, Globals()) == 2
    reason = "`template_arguments`: the model's chat template does not read 'enable_thinking'; correct the name, or"
    assert reason in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("keys", "is_told"),
    [
        ({"template": "plain"}, True),
        ({"template": "chat"}, False),
        ({}, False),
        ({"template": "plain", "calibration": {"source": SHORT_TEXT, "length": 32, "template": True}}, False),
        ({"prompts": [{"id": "given", "kind": "open", "ids": [5, 6]}]}, True),
        ({"prompts": []}, True),
    ],
)
def test_a_plan_says_that_arguments_of_an_unused_chat_template_change_nothing(
    keys: dict[str, object], is_told: bool, study: StudyFile, tmp_path: Path, capsys: Capture
) -> None:
    thinker = Path(shutil.copytree(study.model, tmp_path / "thinker"))
    with (thinker / "chat_template.jinja").open("a") as file:
        file.write("{% if enable_thinking %}<think>{% endif %}")
    models = [{"source": str(thinker), "template_arguments": {"enable_thinking": True}}]
    study.write(**{"models": models, "prompts": [{"id": "open", "kind": "open", "text": "Why?"}]} | keys)
    _, told = planned(study, tmp_path / "nothing", capsys)
    assert ("`template_arguments` change nothing: no prompt is in the model's chat template" in told) == is_told
