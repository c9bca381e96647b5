"""Wrong input: exit code 2, one message that names the fix, nothing half-written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from tests.assets.tiny_study import StudyFile, partitions

Case = Callable[[StudyFile, Path], list[object]]


def unknown_recipe(study: StudyFile, _: Path) -> list[object]:
    return ["run", study.path, "--recipe", "lottery-50"]


def impossible_recipe(study: StudyFile, _: Path) -> list[object]:
    return ["run", study.path, "--recipe", "magnitude-0"]


def malformed_yaml(study: StudyFile, _: Path) -> list[object]:
    study.path.write_text("name: [unclosed")
    return ["run", study.path]


def unknown_key(study: StudyFile, _: Path) -> list[object]:
    study.write(promts=[])
    return ["run", study.path]


def unknown_study(*_: object) -> list[object]:
    return ["run", "dmeo"]


def missing_study_file(*_: object) -> list[object]:
    return ["run", "nowhere.yaml"]


def missing_model(study: StudyFile, tmp_path: Path) -> list[object]:
    return ["run", study.path, "--model", tmp_path / "nowhere"]


def truncated_model(study: StudyFile, tmp_path: Path) -> list[object]:
    folder = Path(shutil.copytree(study.model, tmp_path / "cut"))
    os.truncate(folder / "model.safetensors", 5000)
    return ["run", study.path, "--model", folder]


def pickle_model(study: StudyFile, tmp_path: Path) -> list[object]:
    folder = Path(shutil.copytree(study.model, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return ["run", study.path, "--model", folder]


def code_in_model(study: StudyFile, tmp_path: Path) -> list[object]:
    folder = Path(shutil.copytree(study.model, tmp_path / "code"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))
    return ["run", study.path, "--model", folder]


def calibration_of_a_recipe_that_reads_nothing(study: StudyFile, _: Path) -> list[object]:
    recipe = {"name": "m", "method": "magnitude", "sparsity": 0.5, "calibration": {"seed": 1}}
    study.write(recipes=["dense", recipe])
    return ["run", study.path]


def unknown_key_of_a_calibration(study: StudyFile, _: Path) -> list[object]:
    study.write(recipes=["dense", {"name": "w", "method": "wanda", "sparsity": 0.5, "calibration": {"sed": 1}}])
    return ["run", study.path]


def empty_prompt(study: StudyFile, _: Path) -> list[object]:
    study.write(prompts=[{"id": "open", "kind": "open", "text": "  "}])
    return ["run", study.path]


def model_name_with_a_slash(study: StudyFile, _: Path) -> list[object]:
    return ["run", study.path, "--model", f"a|b={study.model}"]


def warehouse_below_a_file(study: StudyFile, tmp_path: Path) -> list[object]:
    (tmp_path / "file").write_text("")
    return ["run", study.path, "--warehouse", tmp_path / "file" / "warehouse"]


def warehouse_is_a_file(study: StudyFile, tmp_path: Path) -> list[object]:
    (tmp_path / "file").write_text("")
    return ["run", study.path, "--warehouse", tmp_path / "file"]


def read_only_warehouse(study: StudyFile, _: Path) -> list[object]:
    # Not even root may create folders there.
    return ["run", study.path, "--warehouse", "/sys/prunescope"]


def warehouse_on_an_unsupported_store(study: StudyFile, _: Path) -> list[object]:
    return ["run", study.path, "--warehouse", "https://example.org/warehouse"]


def bad_sql(*_: object) -> list[object]:
    return ["sql", "SELEC 1"]


def unknown_column(*_: object) -> list[object]:
    return ["sql", "SELECT nothing FROM variants"]


def write_in_sql(*_: object) -> list[object]:
    return ["sql", "COPY variants TO 'out.csv'"]


def file_in_sql(*_: object) -> list[object]:
    return ["sql", "SELECT * FROM read_csv('/etc/passwd')"]


def unknown_format(*_: object) -> list[object]:
    return ["sql", "SELECT 1", "--format", "xlsx"]


def unknown_question(*_: object) -> list[object]:
    return ["question", "q99"]


def unknown_table(*_: object) -> list[object]:
    return ["describe", "variant"]


def no_report(*_: object) -> list[object]:
    return ["report", "demo"]


def unwritable_output(_: StudyFile, tmp_path: Path) -> list[object]:
    (tmp_path / "file").write_text("")
    return ["sql", "SELECT 1 AS one", "-o", tmp_path / "file" / "out.csv"]


def export_over_foreign_files(_: StudyFile, tmp_path: Path) -> list[object]:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    return ["export", tmp_path / "mine"]


def unknown_command(*_: object) -> list[object]:
    return ["harvest"]


def unknown_suffix(study: StudyFile, tmp_path: Path) -> list[object]:
    return ["sql", "SELECT 1 AS one", "-o", tmp_path / "out.foo"]


def tolerance_that_is_no_share(*_: object) -> list[object]:
    return ["advise", "embedded", "--tolerance", "nan"]


def nothing_to_compare(*_: object) -> list[object]:
    return ["compare", "dense", "ß"]


def nothing_to_export(_: StudyFile, tmp_path: Path) -> list[object]:
    return ["export", tmp_path / "paper"]


def watch_in_an_unwritable_folder(*_: object) -> list[object]:
    return ["watch", "demo", "--warehouse", "/proc/nope"]


def interface_in_an_unwritable_folder(*_: object) -> list[object]:
    return ["ui", "--warehouse", "/proc/nope"]


def name_with_control_characters(*_: object) -> list[object]:
    return ["add-model", "\u202eevil\x1b[31m\x9b31m"]


def option_with_control_characters(*_: object) -> list[object]:
    return ["run", "demo", "--\x1b[31m"]


def missing_argument(*_: object) -> list[object]:
    return ["run"]


CASES: list[tuple[Case, str]] = [
    (unknown_recipe, "unknown recipe 'lottery-50'; `prunescope recipes` lists all forms"),
    (impossible_recipe, "magnitude-0"),
    (malformed_yaml, "tiny.yaml: line 1: not valid YAML"),
    (unknown_key, "tiny.yaml: line 23: `promts`: is not a key here; did you mean `prompts`?"),
    (
        unknown_study,
        "no study 'dmeo'; did you mean demo? shipped are advise, causes, demo, methods, paper-llama2-7b, "
        "paper-llama3-8b, paper-mistral7b, paper-qwen7b, paper-retrieval, paper-small, retrieval-small, trajectories, "
        "variations, writing, writing-large, or give",
    ),
    (missing_study_file, "nowhere.yaml: No such file"),
    (missing_model, "nowhere': no such folder or file"),
    (truncated_model, "model.safetensors: cut short"),
    (pickle_model, "pytorch_model.bin: a pickle can run code"),
    (code_in_model, "`auto_map` runs code"),
    (calibration_of_a_recipe_that_reads_nothing, "`recipes.m`: `calibration`: m reads no activations; leave it out"),
    (unknown_key_of_a_calibration, "`recipes.w.calibration.sed`: is not a key here"),
    (empty_prompt, "the prompt is empty"),
    (model_name_with_a_slash, "models"),
    (warehouse_below_a_file, "another place with --warehouse"),
    (warehouse_is_a_file, "another place with --warehouse"),
    (read_only_warehouse, "/sys/prunescope"),
    (warehouse_on_an_unsupported_store, "files appear there in parts or cannot be written"),
    (bad_sql, "SELEC"),
    (unknown_column, "nothing"),
    (write_in_sql, "only SELECT, EXPLAIN, DESCRIBE, SUMMARIZE and SHOW are allowed"),
    (file_in_sql, "only the warehouse's tables and views can be read"),
    (unknown_format, "'xlsx' is not one of 'table', 'csv'"),
    (unknown_question, "there are q01"),
    (unknown_table, "see `prunescope tables`"),
    (no_report, "run a study first"),
    (unwritable_output, "choose another place with --output"),
    (unknown_suffix, "out.foo: no format is called .foo; use .txt, .csv"),
    (export_over_foreign_files, "choose a new folder"),
    (unknown_command, "No such command"),
    (tolerance_that_is_no_share, "Invalid value for '--tolerance': Input should be less than or equal to 1"),
    (nothing_to_compare, "the warehouse is empty; run a study first"),
    (nothing_to_export, "has no row of any table or figure; run a study that gives some"),
    (watch_in_an_unwritable_folder, "/proc/nope cannot be written; no file can be created there: choose another "),
    (interface_in_an_unwritable_folder, "error: /proc/nope cannot be written; "),
    (name_with_control_characters, "'\\u202eevil\\x1b[31m\\x9b31m'"),
    (option_with_control_characters, "No such option: --"),
    (missing_argument, "name one, such as `prunescope run demo`"),
]


@pytest.mark.parametrize(("case", "message"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_wrong_input_exits_with_2_and_the_fix(
    case: Case, message: str, study: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "warehouse" / "models" / "model=none").mkdir(parents=True)  # of a run that has written nothing yet
    arguments = [str(argument) for argument in case(study, tmp_path)]
    before = {path for path in tmp_path.rglob("*") if "warehouse" not in path.parts}
    code = run(arguments, Globals(warehouse=str(tmp_path / "warehouse")))
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert {character for character in shown.err if not character.isprintable()} <= {"\n"}
    assert shown.out == ""
    assert not partitions(tmp_path / "warehouse")
    assert {path for path in tmp_path.rglob("*") if "warehouse" not in path.parts} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [{"id": "long", "kind": "open", "text": "why " * 300}]}, "line 13: `prompts.0`) has 1215 tokens"),
        ({"prompts": [{"id": "far", "ids": [1, 300]}]}, "`prompts.0`): `ids` holds 300, but the model has 300 tokens"),
        ({"prompts": ["math"]}, "`prompts.0`: source 'math': no such set or file; did you mean maths?"),
        ({"recipes": ["dense", "attn-drop-99"]}, "attn-drop-99: the model has"),
        ({"recipes": ["dense", "wanda-3of7"]}, "not a multiple of 7"),
        ({"calibration": {"sequences": 1, "length": 4096}}, "`calibration.length` 4096 is over the model's context of"),
        (
            {"recipes": ["dense", {"name": "w", "method": "wanda", "sparsity": 0.5, "calibration": {"length": 999}}]},
            "recipe w: `calibration.length` 999 is over the model's context of 128 tokens; give at most 128",
        ),
        ({"calibration": {"source": "/no/such/file.txt"}}, "calibration source /no/such/file.txt"),
        ({"texts": [{"id": "long", "context": 4096}]}, "text 'long': `context` 4096 is over the model's 128 tokens"),
        ({"tasks": [{"name": "helaswag"}]}, "task helaswag: neither shipped nor a task of lm_eval"),
        ({"tasks": [{"name": "boolq", "samples": 201}]}, "task boolq: `samples` 201, but there are 200"),
        ({"tasks": [{"name": "gsm8k"}]}, "task gsm8k: up to 256 new tokens leave no room"),
        (
            {"tasks": [{"name": "wikitext2", "context": 256}]},
            "task wikitext2: `context` 256 is over the model's of 128",
        ),
        ({"tasks": [{"name": "boolq"}, {"name": "boolq"}]}, "`tasks`: 'boolq' is listed twice"),
        ({"allow_code_execution": True}, "`allow_code_execution` is not a key of a study; pass --allow-code-execution"),
        ({"texts": [{"id": "gone", "source": "/no/such/text"}]}, "text 'gone', source /no/such/text: No such file"),
        ({"speed": [{"length": 4096}]}, "speed, batch 1, length 4096, new_tokens 32: 4128 tokens are over the model's"),
        ({"speed": [{}, {"repeats": 2}]}, "`speed`: 'batch 1, length 128, new_tokens 32' is listed twice"),
        ({"device": "cuda:99"}, "device cuda:99: torch sees"),
    ],
)
def test_an_impossible_study_is_refused_before_anything_is_computed(
    study: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    study.write(**changes)
    code = run(["run", str(study.path), "--warehouse", str(tmp_path / "warehouse")], Globals())
    shown = capsys.readouterr().err
    assert code == 2, shown
    assert message in shown
    assert "Traceback" not in shown
    assert not partitions(tmp_path / "warehouse")


@pytest.mark.parametrize("arguments", [["--model", ""], ["--model", "a="], ["--warehouse", ""]])
def test_an_empty_name_is_not_the_current_folder(
    study: StudyFile, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    study.write()
    assert run(["run", str(study.path), *arguments], Globals()) == 2
    assert "names no" in capsys.readouterr().err


def test_debug_adds_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--debug", "sql", "SELEC", "--warehouse", str(tmp_path)], Globals()) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.rstrip().splitlines()[-1].startswith("error: ")


def test_a_full_disk_is_refused_before_anything_is_computed(
    study: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunescope.assets.instance.instance.MIN_FREE_BYTES", 1 << 62)
    assert run(["run", str(study.path), "--warehouse", str(tmp_path / "warehouse")], Globals()) == 2
    assert "free some space" in capsys.readouterr().err
    assert not partitions(tmp_path / "warehouse")
