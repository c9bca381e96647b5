"""`prunescope figure`: one figure of the warehouse as a file, with filters, for paper and for a dark screen."""

import json
import re
from pathlib import Path

import pytest

from prunescope.assets.cli.application import run
from prunescope.assets.cli.options import Globals
from prunescope.pipelines.reporting.charts import theme
from prunescope.pipelines.reporting.charts.registry import FIGURES
from tests.assets.cli.test_querying import Shell


@pytest.fixture
def shell(computed_once: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(computed_once, capsys)


def drawn(path: Path) -> dict:
    return json.loads(path.read_text())


def values(chart: dict, field: str) -> set:
    return {row[field] for rows in chart["datasets"].values() for row in rows if field in row}


# The run of the tiny study has drawn all of them.
DRAWN = [
    "generation",  # one chart
    "estimates",  # several
    "speed",  # the tiny study times nothing
    *(
        pytest.param(name, marks=pytest.mark.exhaustive)
        for name in FIGURES
        if name not in {"generation", "estimates", "speed"}
    ),
]


def test_figures_are_listed_and_explained(shell: Shell, tmp_path: Path) -> None:
    listed = shell("figure")
    assert all(name in listed for name in FIGURES)
    shell("figure", "generation", "--explain", "-o", tmp_path / "again.json")
    assert "from decoding_curve" in shell.messages


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_with_its_caption_unless_it_has_no_data(name: str, shell: Shell, tmp_path: Path) -> None:
    code = run(["figure", name, "-o", str(tmp_path / f"{name}.json")], Globals(warehouse=str(shell.warehouse)))
    told, charts = " ".join(shell.told().split()), [*tmp_path.glob(f"{name}*.json")]
    if code:
        assert (code, charts) == (1, [])
        assert "no data: " in told
    else:
        assert " ".join(FIGURES[name].caption.split()) in told
        assert charts
    if name in {"generation", "speed"}:
        assert (code == 0) == (name == "generation")


def test_recipes_and_prompts_filter_a_figure_before_it_samples(shell: Shell, tmp_path: Path) -> None:
    shell("figure", "generation", "--recipe", "wanda-2of4", "-o", tmp_path / "one.json")
    assert values(drawn(tmp_path / "one.json"), "variant") == {"wanda-2of4"}
    shell("figure", "generation", "-o", tmp_path / "all.json")
    assert len(values(drawn(tmp_path / "all.json"), "variant")) > 1
    prompts = {row["prompt_id"] for row in shell.records("sql", "SELECT DISTINCT prompt_id FROM generations")}
    last = max(prompts)
    shell("figure", "spaces", "--prompt", last, "-o", tmp_path / "prompt.json")
    assert f"prompt {last}" in drawn(tmp_path / "prompt.json")["title"]["subtitle"][0]
    shell("figure", "estimates", "--recipe", "wanda-2of4", "-o", tmp_path / "few.json")
    for path in tmp_path.glob("few*.json"):
        assert values(drawn(path), "variant") == {"wanda-2of4"}


def test_several_charts_of_a_figure_are_numbered_files(shell: Shell, tmp_path: Path) -> None:
    shell("figure", "hierarchy", "-o", tmp_path / "out.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-01-raw.svg", "out-02-normed.svg"]


def test_a_figure_is_drawn_for_paper_or_a_dark_screen(shell: Shell, tmp_path: Path) -> None:
    for columns, points in ((1, 234), (2, 486)):
        path = tmp_path / f"{columns}.pdf"
        shell("figure", "options", "--columns", columns, "--no-title", "-o", path)
        for page in tmp_path.glob(f"{columns}*.pdf"):
            box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)", page.read_bytes())
            assert (float(box[1]) <= points + 1, float(box[2]) <= 641) == (True, True)
    shell("figure", "generation", "--dark", "-o", tmp_path / "dark.json")
    assert drawn(tmp_path / "dark.json")["config"] == theme.config(dark=True)
    shell("figure", "generation", "--dark", "-o", tmp_path / "dark.html")
    assert "https://" not in (tmp_path / "dark.html").read_text().split("<script", 1)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("genration",), "there is no figure 'genration'; did you mean generation? there are spaces, hierarchy"),
        (("generation", "--recipe", "wanda-2of5"), "there is no recipe 'wanda-2of5' in the warehouse; did you mean"),
        (("spaces", "--prompt", "' OR true --"), 'there is no prompt "\' OR true --" in the warehouse'),
        (("generation", "-o", "x.gif"), "error: -o x.gif: end the name in .png, .svg, .pdf, .html, .json"),
        (
            ("generation", "--columns", "1", "-o", "x.html"),
            "--columns 1: only files for paper have a width; add -o FILE.pdf",
        ),
        (("generation", "--columns", "2"), "--columns 2: only files for paper have a width; add -o FILE.pdf"),
        (
            ("generation", "--no-published"),
            "--no-published: figure generation has no published curves; leave the option out",
        ),
        (("generation", "--no-title", "-o", "x.pdf"), "--no-title: only files for paper have a caption in its place"),
    ],
)
def test_an_impossible_figure_is_refused_with_the_fix(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    shell("figure", *arguments, code=2)
    assert message in shell.messages
    assert not Path("x.pdf").exists()
