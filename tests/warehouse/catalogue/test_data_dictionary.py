"""The data dictionary is complete."""

import re
from functools import cache
from pathlib import Path

from prunescope.warehouse import tables
from prunescope.warehouse.catalogue.column_docs import explain
from prunescope.warehouse.catalogue.data_dictionary import dictionary
from prunescope.warehouse.catalogue.database import SQL, view_sql
from prunescope.warehouse.tables import TABLES

ROOT = Path(__file__).parents[3]


@cache
def text() -> str:
    return dictionary()


def part_of(name: str) -> str:
    """Return the text below a heading, up to the next one."""
    return text().split(f"\n### {name}\n")[1].split("\n#")[0]


def columns_of(text: str) -> list[str]:
    return re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)


def test_every_table_is_listed_with_grain_key_references_path_and_columns() -> None:
    for table in TABLES.values():
        part = part_of(table.name)
        assert table.grain in part
        assert f"- Key: {', '.join(f'`{name}`' for name in table.key)}" in part
        assert all(f"- Refers to: [{each.table}](#{each.table}) by `model`" in part for each in table.references)
        assert f"`{table.name}/model=M/" in part
        assert columns_of(part) == [column.name for column in table.columns]
        assert all(f"- Always: `{rule.condition}`" in part for rule in table.invariants)


def test_every_mart_and_question_is_listed_with_all_its_columns() -> None:
    views = view_sql()
    explained = explain(views.values())
    for view in views.values():
        if view.layer == "staging":
            assert all(f"| `{view.name}.{column}` |" in text() for column in view.notes)
            continue
        part = part_of(view.name)
        assert view.header.partition("\n")[0] in part
        assert columns_of(part) == list(view.columns) == list(explained[view.name])
        assert f"- Key: {', '.join(f'`{column}`' for column in view.key)}\n" in part
        assert ("- Across: models\n" in part) == ("across" in view.parts)
        assert {"- Grain:", "- Key:", "- Inputs:"} <= {line[: line.find(":") + 1] for line in part.splitlines()}


def test_the_queries_of_figures_and_the_explorer_are_listed_with_their_inputs() -> None:
    figures, explorer = text().split("\n## Figures\n")[1].split("\n## Explorer\n")
    for folder, part in (("figures", figures), ("explorer", explorer)):
        names = {path.relative_to(SQL / folder).with_suffix("").as_posix() for path in (SQL / folder).rglob("*.sql")}
        assert set(re.findall(r"^\| `([a-z0-9_/]+)` \|", part, re.MULTILINE)) == names
    assert "in the dense context. | `layer_summary`, `reference_temperature` |" in figures


def test_a_column_has_its_unit_formula_source_bounds_and_null() -> None:
    one_minus_cos = "| `one_minus_cos_h` | FLOAT | Cosine defect between dense and pruned head input, computed without "
    formula = "cancellation. [1 - cosine] = `1 − cos(h, h+Δh)` (2603.24652 Theorem 1) Values: 0 to 2. |"
    assert one_minus_cos + formula in part_of("layer_transitions")
    assert " Values: NULL. |" in part_of("generations")
    assert "NULL, and in files before version 2. |" in part_of("models")
    assert "`\\|A ∩ B\\|/\\|A ∪ B\\|`" in part_of("mask_overlap")


def test_every_row_of_every_table_has_as_many_cells_as_its_head() -> None:
    cells = [len(re.split(r"(?<!\\)\|", line)) for line in text().splitlines() if line.startswith("|")]
    assert set(cells) == {5}


def test_links_lead_to_headings() -> None:
    headings = set(re.findall(r"^### (\S+)$", text(), re.MULTILINE))
    assert set(re.findall(r"\]\(#([^)]+)\)", text())) == headings


def test_the_document_of_the_warehouse_lists_every_table_and_no_other() -> None:
    readme = (ROOT / "warehouse" / "README.md").read_text(encoding="utf-8")
    rows = readme.split("## Know what one row is")[1].split("\n\n")[1].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(TABLES)


def test_every_module_of_a_table_is_listed() -> None:
    modules = {path.stem for path in Path(tables.__file__).parent.glob("*.py")}
    assert modules - {"__init__", "columns"} == set(TABLES)
