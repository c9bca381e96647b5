"""`prunescope tables` and `prunescope describe`: the tables and views of the warehouse, and their columns."""

import textwrap
from typing import Annotated

import typer

from prunescope.assets.cli import completion
from prunescope.assets.cli.options import existing
from prunescope.assets.cli.output import Sink, emit_list, log
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.suggestions import did_you_mean
from prunescope.warehouse.core.quoting import quoted


def tables(context: typer.Context, sink: Sink) -> None:
    """List tables and views with their rows and keys; `prunescope describe NAME` lists the columns."""
    from prunescope.warehouse.catalogue.database import view_sql
    from prunescope.warehouse.storage.partition_store import Store
    from prunescope.warehouse.tables import TABLES

    store, rows = Store(existing(context)), []
    for table in TABLES.values():
        footers = [footer for _, footer in store.footers(table)]
        rows.append(
            {
                "name": table.name,
                "kind": "table",
                "partitions": len(footers),
                "rows": sum(footer.rows for footer in footers),
                "about": table.grain,
                "key": ", ".join(table.key),
            }
        )
    rows += [
        {"name": view.name, "kind": view.layer, "about": view.parts["asks"], "key": ", ".join(view.key)}
        for view in sorted(view_sql().values(), key=lambda view: (view.layer, view.name))
        if view.layer != "staging"
    ]
    emit_list(rows, sink, name=str, kind=str, partitions=int, rows=int, about=str, key=str)


def describe(
    context: typer.Context,
    sink: Sink,
    name: Annotated[
        str, typer.Argument(help="A table or view, see `prunescope tables`.", autocompletion=completion.relations)
    ],
) -> None:
    """Explain the columns of a table or view: type, unit, formula, source.

    For example: `prunescope describe layer_transitions`
    """
    from prunescope.warehouse.catalogue.column_docs import PROVENANCE_COLUMNS, explain
    from prunescope.warehouse.catalogue.database import PROVENANCE, PROVENANCE_COMMENT, connected, view_sql
    from prunescope.warehouse.catalogue.lineage import questions as question_views
    from prunescope.warehouse.catalogue.view import joins
    from prunescope.warehouse.tables import TABLES

    documented = explain(view_sql().values()) | {PROVENANCE: PROVENANCE_COLUMNS}
    numbers = {view.partition("_")[0]: view for view in question_views()}
    name = numbers.get(name.lower(), name if name in documented else name.lower())
    if name not in documented:
        hint = did_you_mean(name, documented)
        raise InputError(f"there is no table or view {name!r}; {hint}see `prunescope tables`")
    with connected(existing(context)) as connection:
        relation = connection.sql(f"SELECT * FROM {quoted(name)}")  # noqa: S608 - checked above
        columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    rows = [
        {
            "column": column,
            "type": type_,
            "unit": doc.unit,
            "formula": doc.formula,
            "about": doc.doc,
            "source": doc.source,
        }
        for column, type_ in columns.items()
        for doc in [documented[name][column]]
    ]
    if table := TABLES.get(name):
        log("\n".join([table.grain, f"key: {', '.join(table.key)}", *map(str, table.references)]), "dim")
    else:
        log(PROVENANCE_COMMENT if name == PROVENANCE else view_sql()[name].header, "dim")
    keys = {other.name: other.key for other in TABLES.values()}
    keys |= {view.name: view.key for view in view_sql().values() if view.layer == "marts"}
    if lines := [
        f"  LEFT JOIN {other} USING ({', '.join(using)})" for other, using in joins(name, list(columns), keys).items()
    ]:
        log("\n".join(["joins that add columns and never rows:", *lines]), "dim")
    if table and table.example:
        log(f"for example:\n{textwrap.indent(table.example, '  ')}", "dim")
    emit_list(rows, sink, column=str, type=str, unit=str, formula=str, about=str, source=str)
