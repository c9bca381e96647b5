"""Commands that read the warehouse: only data on standard output, messages on standard error."""

import csv
import io
import json
import shlex
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.warehouse.catalogue.lineage import questions
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.assets.tiny_study import RECIPES, partitions
from tests.kept_processes import KeptProcesses
from tests.tiny_models import save_tiny
from tests.warehouse.conftest import provenance_of, rows_of


class Shell:
    """Command lines in this process on a warehouse; the last one's messages and exit code."""

    def __init__(self, warehouse: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.warehouse, self._capsys = warehouse, capsys

    def __call__(self, *arguments: object, code: int | None = 0) -> str:
        """Return the output; a code of None stands for any."""
        self.code = run([*map(str, arguments)], Globals(warehouse=str(self.warehouse)))
        shown = self._capsys.readouterr()
        assert code in {None, self.code}, shown.err
        self.messages = shown.err
        return shown.out

    def records(self, *arguments: object, code: int = 0) -> list[dict[str, object]]:
        return json.loads(self(*arguments, "--format", "json", code=code))


@pytest.fixture(scope="module")
def kept_processes() -> Iterator[KeptProcesses]:
    with closing(KeptProcesses()) as kept:
        yield kept


@pytest.fixture
def shell(
    computed_once: Path,
    capsys: pytest.CaptureFixture[str],
    kept_processes: KeptProcesses,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """Return a shell whose SQL runs in this process; tests without it start one for each command, as users do."""
    monkeypatch.setattr("prunescope.assets.cli.options.sql_process", lambda _, setup: kept_processes.give(setup))
    return Shell(computed_once, capsys)


@pytest.fixture
def own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Return a shell on the test's folder."""
    return Shell(tmp_path, capsys)


def test_sql_writes_rows_in_every_format(shell: Shell, tmp_path: Path) -> None:
    query = "SELECT recipe FROM variants ORDER BY recipe <> 'dense', recipe"
    wanted = ["dense", *sorted(set(RECIPES) - {"dense"})]
    assert [row["recipe"] for row in shell.records("sql", query)] == wanted
    assert [row["recipe"] for row in csv.DictReader(io.StringIO(shell("sql", query, "-f", "csv")))] == wanted
    for text in ("table", "markdown", "latex"):
        assert "wanda-2of4" in shell("sql", query, "--format", text)
    assert shell("sql", query, "-o", tmp_path / "rows.parquet") == ""
    assert pq.read_table(tmp_path / "rows.parquet")["recipe"].to_pylist() == wanted


def test_the_file_name_sets_the_format_unless_an_option_does(shell: Shell, tmp_path: Path) -> None:
    for file, options, content in (
        ("rows.json", [], '[\n{"one": 1}\n]\n'),
        ("rows.txt", ["--format", "csv"], "one\n1\n"),
        ("rows.data", ["--format", "csv"], "one\n1\n"),
    ):
        shell("sql", "SELECT 1 AS one", "-o", tmp_path / file, *options)
        assert (tmp_path / file).read_text() == content


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sql 'SELECT 1' -o r.pdf", "-o r.pdf: no format is called .pdf; use .txt, .csv"),
        ("question q11 --chart -o r.png --format csv", "--chart --format csv: that is for rows"),
        ("question q11 --chart -o x.gif", "--chart -o x.gif: end the name in .png, .svg, .pdf, .html, .json"),
        ("report -o r.pdf", "-o r.pdf: a report is one HTML page; end the name in .html"),
        ("report -o r", "-o r: a report is one HTML page"),
        ("sql 'SELECT 1' -o ''", "Invalid value for '--output' / '-o': file '' is a directory"),
        ("sql 'SELECT 1' -o .", "file '.' is a directory"),
        ("tables -o there", "file 'there' is a directory"),
        ("tables -o no/such/r.csv", "-o no/such/r.csv: there is no folder no/such; make it first"),
        ("sql 'SELECT 1' --memory nan", "Invalid value for '--memory'"),
        ("question q0l", "there is no question 'q0l'; did you mean 'q"),
        ("question first_flip", "there is no question 'first_flip'; did you mean 'q11_first_flip'"),
        ("question q01 --prompt p", "--prompt: q01_spike_predictors has no column prompt_id; use --model, --recipe"),
        ("question q05 --variant dense", "--variant: q05_bias_by_deviation has no column recipe; use --model"),
        ("question q11 --model nope", "there is no model 'nope' in the warehouse; there are "),
        ("question q11 --recipe nope", "there is no recipe 'nope' in the warehouse; there are "),
        ("question q11 --recipe wanda-2of5 --prompt open", "did you mean 'wanda-2of4'? there are"),
        ("question q11 --prompt opem", "there is no prompt 'opem' in the warehouse; did you mean 'open'"),
        ('question q11 --prompt "\' OR true --"', 'there is no prompt "\' OR true --" in the warehouse; there are '),
        ("question q11 --variant nope", "there is no variant 'nope'; see `prunescope variants`"),
    ],
)
def test_an_impossible_path_name_or_limit_is_refused_and_nothing_written(
    shell: Shell, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "there").mkdir()
    assert shell(*shlex.split(line), code=2) == ""
    assert message in " ".join(shell.messages.split())
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_parquet_is_not_sent_to_a_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert shell("sql", "SELECT 1", "--format", "parquet", code=2) == ""
    assert "add -o FILE" in shell.messages


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_the_warehouse_is_named_before_or_after_the_command_or_in_the_environment(
    place: str, computed_once: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    option, command = ["--warehouse", str(computed_once)], ["variants", "--format", "json"]
    if place == "environment":
        monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(computed_once))
    line = {"before": [*option, *command], "after": [*command, *option], "environment": command}[place]
    assert run(line, Globals()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["recipe"] == "dense"
    assert [row["study"] for row in found] == ["tiny"] * len(RECIPES)


def test_a_question_has_a_number_a_summary_line_and_filters_by_its_columns(shell: Shell) -> None:
    assert [row["question"] for row in shell.records("questions")] == [*questions()]
    rows = shell.records("question", "q11")
    assert "grain:" not in shell.messages
    assert shell.records("question", "q11_first_flip") == rows
    [model] = {str(row["model"]) for row in rows}
    recipe, prompt = str(rows[-1]["recipe"]), str(rows[-1]["prompt_id"])
    wanted = [row for row in rows if row["recipe"] == recipe]
    assert shell.records("question", "q11", "--recipe", recipe) == wanted
    assert shell.messages.splitlines()[1].startswith(f"{len(wanted)} rows, one row per model × recipe × prompt: at the")
    assert shell.records("question", "q11", "--variant", f"{model}@{recipe}", "--model", model, "--explain") == wanted
    assert "grain: one row" in shell.messages
    assert shell.records("question", "q11", "--variant", recipe) == wanted
    both = [str(row["recipe"]) for row in (rows[0], rows[-1])]
    found = shell.records("question", "q11", "--recipe", both[0], "--recipe", both[1], "--prompt", prompt)
    assert found == [row for row in rows if row["recipe"] in both and row["prompt_id"] == prompt]


def test_a_table_shows_the_first_rows_of_an_answer_and_every_other_format_all(shell: Shell, tmp_path: Path) -> None:
    whole = shell.records("question", "q02")
    recipes = tuple({row["recipe"] for row in whole})

    def rows_of(text: str) -> int:
        return sum(line.strip().startswith(recipes) for line in text.splitlines())

    table, markdown = shell("question", "q2"), shell("question", "q02", "--format", "markdown")
    *shown, rest = table.strip().splitlines()
    assert rest == f"{len(whole) - 20} more rows; --format csv or json has all of them, -o FILE writes them to a file"
    assert rows_of(table) == 20
    assert "in each of these rows: model tiny-a" in shown[-2]
    assert markdown.count("tiny-a") == len(whole) > 20
    shell("question", "q02", "-o", tmp_path / "all.txt")
    assert rows_of((tmp_path / "all.txt").read_text()) == len(whole)
    # Numbers are rounded for readers only.
    number = next(
        value for row in whole for value in row.values() if isinstance(value, float) and len(repr(value)) > 12
    )
    assert repr(number) not in table
    assert f"{number:.4g}" in table + markdown


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_every_question_has_a_chart_unless_it_has_no_data(shell: Shell, tmp_path: Path, every: int) -> None:
    for name in [*questions()][::every]:
        path = tmp_path / f"{name}.json"
        shell("question", name.partition("_")[0], "--chart", "-o", path, code=None)
        if shell.code:
            assert (shell.code, path.exists()) == (1, False), shell.messages
            assert "no data: " in shell.messages
            assert "run a study that measures it" in shell.messages
        else:
            assert json.loads(path.read_text())["title"]["text"]
            assert "no data" not in path.read_text()
    # No other model was scored, so nothing can be predicted.
    assert not (tmp_path / "q31_prediction_quality.json").exists()
    assert len([*tmp_path.glob("q*.json")]) > 15 // every


def test_a_chart_is_written_in_the_format_of_its_name_else_to_a_page(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suffix, begins in (("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF"), ("html", b"<!doctype html>")):
        shell("question", "q11", "--chart", "-o", tmp_path / f"chart.{suffix}")
        assert (tmp_path / f"chart.{suffix}").read_bytes().startswith(begins)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert shell("question", "q11", "--chart") == ""
    page = Path(shell.messages.split("the chart is in ")[1].split(";")[0])
    assert page.name == "q11_first_flip.html"
    assert "https://" not in page.read_text().split("<script", 1)[0]


def test_sql_shows_the_plan_of_a_query(shell: Shell) -> None:
    drawn = shell("sql", "EXPLAIN FROM models")
    assert "╭" in drawn
    assert "\\n" not in drawn
    assert [row["explain_value"] for row in shell.records("sql", "EXPLAIN FROM models")] == [drawn.removesuffix("\n")]


def test_sql_keeps_its_limits(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(computed_once, capsys)
    shell("sql", "SELECT count(*) FROM range(1000000000000)", "--seconds", "0.2", code=1)
    assert "longer than 0.2 s" in shell.messages
    shell("sql", "SELECT list(i) FROM range(100000000) AS r(i)", "--memory", "0.1", code=1)
    assert "needs more memory than it may have" in shell.messages


def test_tables_counts_rows_and_partitions(shell: Shell) -> None:
    found = {row["name"]: row for row in shell.records("tables")}
    assert set(TABLES) < set(found)
    assert (found["variants"]["partitions"], found["variants"]["rows"]) == (len(RECIPES), len(RECIPES))
    assert found["q11_first_flip"]["kind"] == "questions"


def test_describe_explains_every_column_of_a_table_and_its_example_runs(shell: Shell) -> None:
    examples = {table.name: table.example for table in TABLES.values() if table.example}
    for name, example in examples.items():
        found = {row["column"]: row["about"] for row in shell.records("describe", name)}
        assert [*found] == [column.name for column in TABLES[name].columns]
        assert all(found.values())
        assert textwrap.indent(example, "  ") in shell.messages
        if name == "layer_transitions":
            assert "of the model's output" in found["margin_dense"]
            assert "One row per variant" in shell.messages
            assert "key: model, recipe, prompt_id, position, layer" in shell.messages
            assert "(model, recipe) references variants (model, recipe)" in " ".join(shell.messages.split())
        rows = {name: shell.records("sql", example)}
    assert {row["sublayer"] for row in rows["layer_transitions"]} == {"attn", "mlp"}


def test_describe_names_the_joins_that_multiply_no_rows(shell: Shell) -> None:
    shell("describe", "decoding_steps")
    told = shell.messages.splitlines()
    assert "key: model, recipe, prompt_id, trajectory, step, temperature" in told
    assert "  LEFT JOIN generations USING (model, recipe, prompt_id)" in told
    # Those by variant alone compute all verdicts.
    joins = ["", *(line for line in told if line.startswith("  LEFT JOIN") and "prompt_id" in line)]
    counts = ", ".join(f"(SELECT count(*) FROM decoding_steps {line}) AS n{n}" for n, line in enumerate(joins))
    [counted] = shell.records("sql", f"SELECT {counts}")
    assert len({*counted.values()}) == 1, (counted, joins)


def test_describe_explains_the_columns_of_a_view_by_source_or_note(shell: Shell) -> None:
    found = {row["column"]: row for row in shell.records("describe", "q11_first_flip")}
    assert found["margin_dense"]["unit"] == "logit"
    found = {row["column"]: row for row in shell.records("describe", "q24_attention_mlp_block")}
    assert (found["kl_ratio"]["unit"], found["kl_ratio"]["formula"]) == ("ratio", "kl_nats/kl_other_nats")
    assert all(row["about"] for row in found.values())
    assert "columns:" not in shell.messages
    assert all(row["about"] for row in shell.records("describe", "provenance"))


def test_report_prints_its_path_or_copies_the_page(shell: Shell, tmp_path: Path) -> None:
    place = Path(shell("report").strip())
    assert place == shell.warehouse / "_reports" / "tiny.html"
    assert shell("report", "tiny", "-o", tmp_path / "copy.html") == ""
    assert (tmp_path / "copy.html").read_bytes() == place.read_bytes()


def test_doctor_finds_no_problem_in_a_computed_warehouse_and_names_a_damaged_file(
    warehouse: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = Shell(warehouse, capsys)
    assert shell("doctor") == ""
    assert "no problem found" in shell.messages
    assert shell.records("doctor") == []
    damaged = warehouse / "models/model=tiny-a/part.parquet"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert str(damaged) in shell("doctor", "-f", "csv", code=1)


def test_doctor_shows_the_structure_of_a_model(shell: Shell, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "granite", "granite")
    rows = {row["part"]: row for row in shell.records("doctor", "--model", folder)}
    assert list(rows)[:3] == ["model", "attn.0", "mlp.0"]
    assert (rows["mlp.2"]["module"], rows["mlp.2"]["form"]) == ("model.layers.2.mlp", "multiplier 0.22")
    assert rows["head"]["form"] == "own weights, scale 0.25"
    table = shell("doctor", "--model", folder)
    assert "GraniteForCausalLM" in table
    assert "multiplier 0.22" in table


def test_doctor_refuses_a_model_with_the_module_and_the_reason(own: Shell, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "opt", "opt", do_layer_norm_before=False)
    assert own("doctor", "--model", folder, code=2) == ""
    assert "layers.0.final_layer_norm norms the stream itself" in own.messages
    assert own("doctor", "--model", tmp_path / "no", code=2) == ""
    assert "no such" in own.messages


@pytest.mark.parametrize(("template", "reason"), [("{{ a.b }}", "undefined"), ("Hello", "leaves the message out")])
def test_doctor_and_plan_refuse_the_same_chat_templates(own: Shell, tmp_path: Path, template: str, reason: str) -> None:
    folder, study = save_tiny(tmp_path / "model", "llama"), tmp_path / "study.yaml"
    (folder / "chat_template.jinja").write_text(template)
    study.write_text(
        f"models: [{{name: m, source: {folder}}}]\nrecipes: [{{name: dense, method: dense}}]\n"
        "prompts: [{id: a, text: 'Why?'}]\ngeneration: {new_tokens: 2}\n"
    )
    for command in (["doctor", "--model", folder], ["plan", study]):
        own(*command, code=2)
        error = " ".join(own.messages.split())
        assert "the model's chat template" in error
        assert reason in error


def test_reading_commands_change_no_file(shell: Shell) -> None:
    before = partitions(shell.warehouse)
    for command in ("tables", "variants", "questions", "sql 'FROM variants'"):
        shell(*shlex.split(command))
    assert partitions(shell.warehouse) == before


def test_a_warehouse_without_such_rows_answers_with_none(own: Shell, tmp_path: Path) -> None:
    (tmp_path / "models" / "model=none").mkdir(parents=True)
    for command in ("variants", "question q01", "sql 'FROM layer_summary'"):
        assert own.records(*shlex.split(command)) == []


# Commands that read a warehouse; a model or a study named by its file is no part of it.
READING = [
    *("variants", "tables", "describe variants", "sql 'SELECT 1'", "question q01", "compare a b"),
    *("report", "report demo", "report --terminal", "figure spikes", "export paper", "serve", "advise my-model"),
    *("verify", "gc", "gc --yes", "doctor", "checkpoint m@wanda-50 folder"),
]


@pytest.mark.parametrize("line", READING)
def test_a_missing_warehouse_is_refused_with_the_fix(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def assert_refused(place: object, *options: object) -> None:
        assert run([*map(str, options), *shlex.split(line)], Globals()) == 2
        assert capsys.readouterr() == (
            "",
            f"error: no study has run in the warehouse {place}; name another with --warehouse or "
            "PRUNESCOPE_WAREHOUSE, or run one, such as `prunescope run demo`\n",
        )

    none = tmp_path / "no where"
    for place in (none, "memory://bucket/none"):
        assert_refused(place, "--warehouse", place)
    assert not none.exists()
    none.mkdir()
    assert_refused(none, "--warehouse", none)
    monkeypatch.chdir(none)
    assert_refused(none / "warehouse/data")
    monkeypatch.setenv("PRUNESCOPE_WAREHOUSE", str(none))
    assert_refused(none)
    assert not any(none.iterdir())


def test_lists_of_what_is_shipped_and_help_need_no_warehouse(own: Shell) -> None:
    assert "q01_spike_predictors" in own("questions")
    assert "hierarchy" in own("figure")
    for command in ("run", "sql", "question", "describe", "compare", "report", "export", "ui", "doctor"):
        assert "--warehouse" in own(command, "--help")


def test_tables_counts_the_rest_after_a_file_is_removed_meanwhile(own, tmp_path, monkeypatch):
    table, store, real = TABLES["models"], Store(tmp_path), Store.partitions
    for model in ("stays", "goes"):
        store.write(table, rows_of(table, model, None, rows=1), provenance_of(model, None), model, None)

    def removed_after(self, of):
        found = real(self, of)
        store.path(table, "goes", None).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Store, "partitions", removed_after)
    told = {row["name"]: row for row in own.records("tables")}
    assert (told["models"]["partitions"], told["models"]["rows"]) == (1, 1)


def test_a_damaged_file_is_reported_and_left_out_of_every_answer(own, tmp_path):
    store = Store(tmp_path)
    for recipe in ("a", "b"):
        for table in (TABLES["variants"], TABLES["top_tokens"]):
            store.write(table, rows_of(table, "tiny", recipe, rows=1), provenance_of("tiny", recipe), "tiny", recipe)
    damaged = store.path(TABLES["top_tokens"], "tiny", "b")
    damaged.write_bytes(damaged.read_bytes()[:50])

    def ask(*command):
        found = own.records(*command)
        assert f"{damaged} is damaged" in own.messages
        return found

    assert [row["recipe"] for row in ask("variants")] == ["a", "b"]
    told = {row["name"]: row for row in ask("tables")}
    assert (told["top_tokens"]["partitions"], told["top_tokens"]["rows"]) == (1, 1)
    assert ask("describe", "top_tokens")
    assert {row["recipe"] for row in ask("sql", "FROM top_tokens")} == {"a"}
