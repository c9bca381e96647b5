"""Task scores as files of lm-evaluation-harness, read by the harness itself."""

import json
import re
from pathlib import Path

import duckdb
import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals


def test_the_harness_shows_the_scores_of_the_warehouse(
    computed_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.utils import make_table

    assert run(["export", str(tmp_path), "--lm-eval", "--warehouse", str(computed_once)], Globals()) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    [file] = [file for file in files if file.parent.name == "tiny-a@wanda-2of4"]
    assert re.fullmatch(r"results_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}\.json", file.name)
    content = json.loads(file.read_text())
    stored = computed_once / "task_scores" / "model=tiny-a" / "recipe=wanda-2of4" / "part.parquet"
    with duckdb.connect() as connection:
        columns = "task, metric, value, standard_error, is_higher_better"
        rows = connection.execute(f"select {columns} from read_parquet(?)", [str(stored)]).fetchall()
    known = {"accuracy": "acc,none", "accuracy_per_byte": "acc_bytes,none"}
    found = {task: len(values) for task, values in content["results"].items()}
    for task, metric, value, error, is_higher_better in rows:
        key = known.get(metric, f"{metric},none")
        if metric.startswith(("exact_match", "lm_eval/")):
            continue
        name = key.partition(",")[0]
        assert content["results"][task][key] == value
        assert content["results"][task][key.replace(",", "_stderr,")] == ("N/A" if error is None else error)
        assert content["higher_is_better"][task][name] == is_higher_better
        assert f"|{name}" in make_table(content).replace(" ", "")
    assert found == {task: 1 + 2 * sum(row[0] == task for row in rows) for task in found}, "each with alias and errors"

    assert (
        run(["export", str(tmp_path), "--lm-eval", "--only", "q01", "--warehouse", str(computed_once)], Globals()) == 2
    )
    assert "leave out --only" in capsys.readouterr().err
