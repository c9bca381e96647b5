"""Wrong input: exit code 2, one message that names the fix, nothing half-written."""

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from tests.assets.tiny_study import StudyFile, partitions

Spoil = Callable[[StudyFile, Path], object]


def copied(study: StudyFile, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study.model, tmp_path / "copied"))


def truncated(study: StudyFile, tmp_path: Path) -> None:
    os.truncate(copied(study, tmp_path) / "model.safetensors", 5000)


def pickled(study: StudyFile, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_code(study: StudyFile, tmp_path: Path) -> None:
    config = copied(study, tmp_path) / "config.json"
    config.write_text(config.read_text().replace("{", '{"auto_map": {"AutoModel": "evil.Model"},', 1))


def with_a_file(_: StudyFile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")


def with_a_thesis(_: StudyFile, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")


def with_recipe(**keys: object) -> Spoil:
    return lambda study, _: study.write(recipes=["dense", {"sparsity": 0.5, **keys}])


# A command line, in which `{study}` and `{there}` stand for the study and its folder, the message, and what comes
# before.
CASES: list[tuple[str, str, Spoil | None]] = [
    ("run {study} --recipe lottery-50", "unknown recipe 'lottery-50'; `prunescope recipes` lists all forms", None),
    ("run {study} --recipe magnitude-0", "magnitude-0", None),
    (
        "run {study}",
        "tiny.yaml: line 1: not valid YAML",
        lambda study, _: study.path.write_text("name: [unclosed"),
    ),
    (
        "run {study}",
        "tiny.yaml: line 23: `promts`: is not a key here; did you mean `prompts`?",
        lambda study, _: study.write(promts=[]),
    ),
    (
        "run dmeo",
        "no study 'dmeo'; did you mean demo? shipped are advise, causes, demo, methods, paper-llama2-7b, "
        "paper-llama3-8b, paper-mistral7b, paper-qwen7b, paper-retrieval, paper-small, retrieval-small, trajectories, "
        "variations, writing, writing-large, or give",
        None,
    ),
    ("run nowhere.yaml", "nowhere.yaml: No such file", None),
    ("run {study} --model {there}/nowhere", "nowhere': no such folder or file", None),
    ("run {study} --model {there}/copied", "model.safetensors: cut short", truncated),
    ("run {study} --model {there}/copied", "pytorch_model.bin: a pickle can run code", pickled),
    ("run {study} --model {there}/copied", "`auto_map` runs code", with_code),
    (
        "run {study}",
        "`recipes.m`: `calibration`: m reads no activations; leave it out",
        with_recipe(name="m", method="magnitude", calibration={"seed": 1}),
    ),
    (
        "run {study}",
        "`recipes.w.calibration.sed`: is not a key here",
        with_recipe(name="w", method="wanda", calibration={"sed": 1}),
    ),
    (
        "run {study}",
        "the prompt is empty",
        lambda study, _: study.write(prompts=[{"id": "open", "kind": "open", "text": "  "}]),
    ),
    ("run {study} --model 'a|b={model}'", "models", None),
    ("run {study} --warehouse {there}/file/warehouse", "another place with --warehouse", with_a_file),
    ("run {study} --warehouse {there}/file", "another place with --warehouse", with_a_file),
    # Not even root may create folders there.
    ("run {study} --warehouse /sys/prunescope", "/sys/prunescope", None),
    (
        "run {study} --warehouse https://example.org/warehouse",
        "files appear there in parts or cannot be written",
        None,
    ),
    ("sql 'SELEC 1'", "SELEC", None),
    ("sql 'SELECT nothing FROM variants'", "nothing", None),
    (
        """sql "COPY variants TO 'out.csv'" """,
        "only SELECT, EXPLAIN, DESCRIBE, SUMMARIZE and SHOW are allowed",
        None,
    ),
    (
        """sql "SELECT * FROM read_csv('/etc/passwd')" """,
        "only the warehouse's tables and views can be read",
        None,
    ),
    ("sql 'SELECT 1' --format xlsx", "'xlsx' is not one of 'table', 'csv'", None),
    ("question q99", "there are q01", None),
    ("describe variant", "see `prunescope tables`", None),
    ("report demo", "run a study first", None),
    ("sql 'SELECT 1 AS one' -o {there}/file/out.csv", "choose another place with --output", with_a_file),
    ("sql 'SELECT 1 AS one' -o {there}/out.foo", "out.foo: no format is called .foo; use .txt, .csv", None),
    ("export {there}/mine", "choose a new folder", with_a_thesis),
    ("harvest", "No such command", None),
    (
        "advise embedded --tolerance nan",
        "Invalid value for '--tolerance': Input should be less than or equal to 1",
        None,
    ),
    ("compare dense ß", "the warehouse is empty; run a study first", None),
    ("export {there}/paper", "has no row of any table or figure; run a study that gives some", None),
    (
        "watch demo --warehouse /proc/nope",
        "/proc/nope cannot be written; no file can be created there: choose another ",
        None,
    ),
    ("ui --warehouse /proc/nope", "error: /proc/nope cannot be written; ", None),
    ("add-model \u202eevil\x1b[31m\x9b31m", "'\\u202eevil\\x1b[31m\\x9b31m'", None),
    ("run demo --\x1b[31m", "No such option: --", None),
    ("run", "name one, such as `prunescope run demo`", None),
]


@pytest.mark.parametrize(("line", "message", "spoil"), CASES)
def test_wrong_input_exits_with_2_and_the_fix(
    line: str, message: str, spoil: Spoil | None, study: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "warehouse" / "models" / "model=none").mkdir(parents=True)  # of a run that has written nothing yet
    if spoil:
        spoil(study, tmp_path)
    arguments = shlex.split(line.format(study=study.path, there=tmp_path, model=study.model))
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
