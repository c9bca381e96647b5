"""Definition of a table: its columns with unit, formula and source, its key and its grain.

Arrow schema, DuckDB comments, checks and the data dictionary are derived from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Partitioning = Literal["model", "variant"]
# Key of the table's version in the metadata of the Arrow schema, and therefore of every file.
VERSION_KEY = b"version"
_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
}


@dataclass(frozen=True)
class ColumnDoc:
    """Documentation of a column: one sentence, and its unit, formula and source if it has them."""

    doc: str
    unit: str = ""
    formula: str = ""
    source: str = ""

    def comment(self, formula: str = "{}") -> str:
        """Return the one-line comment that DuckDB shows; `formula` is the form of the formula."""
        unit = f" [{self.unit}]" if self.unit else ""
        equation = f" = {formula.format(self.formula)}" if self.formula else ""
        return f"{self.doc}{unit}{equation}{f' ({self.source})' if self.source else ''}"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: quantity and unit or form, the same in every table.
        doc: meaning in one or a few sentences.
        unit: physical or logical unit; empty for names and counts.
        formula: how it is computed.
        source: theorem, section or definition.
        cost: computation in addition to what other columns need; empty for none.
        nullable: whether NULL has a meaning, which `doc` then states.
        minimum: smallest legal value, checked.
        maximum: largest legal value, checked.
        values: legal values of a categorical column, checked.
        is_timing: whether it differs between two equal runs (seconds, memory) and is not compared.
        since: version of the table that added the column. In files of earlier versions the column is NULL, or computed
            by a migration.
    """

    type: pa.DataType
    name: str
    doc: str
    unit: str = ""
    formula: str = ""
    source: str = ""
    cost: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()
    is_timing: bool = False
    since: int = 1

    @property
    def documentation(self) -> ColumnDoc:
        """Meaning, unit, formula and source."""
        return ColumnDoc(self.doc, self.unit, self.formula, self.source)

    def comment(self) -> str:
        """Return the one-line comment that DuckDB and the Dagster UI show."""
        return self.documentation.comment() + (f" Cost: {self.cost}." if self.cost else "")

    def field(self) -> pa.Field:
        """Return the Arrow field, with unit, formula and source as metadata."""
        metadata = {key: text for key in ("doc", "unit", "formula", "source", "cost") if (text := getattr(self, key))}
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True)
class Invariant:
    """Named SQL condition that holds in every row."""

    name: str
    condition: str


@dataclass(frozen=True)
class ForeignKey:
    """Foreign key: every row refers to a row of another table, whose key has the same columns."""

    table: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        """Return the key in SQL."""
        columns = ", ".join(self.columns)
        return f"({columns}) references {self.table} ({columns})"


_MODEL, _VARIANT = ForeignKey("models", ("model",)), ForeignKey("variants", ("model", "recipe"))


@dataclass(frozen=True)
class Migration:
    """Conversion of one version of a table to the next, for renamed or retyped columns.

    Attributes:
        to: the later version.
        replaced: the columns that it drops, as the earlier version had them.
        computed: SQL expressions over the earlier version's columns, by name of the new column.
    """

    to: int
    replaced: tuple[Column, ...]
    computed: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: file-system and SQL name.
        grain: "One row per ..." in one sentence.
        key: columns that identify a row.
        columns: in stored order.
        invariants: identities between columns, checked on every row.
        may_be_empty: whether a partition without rows is legal.
        migrations: migrations from earlier versions, in order; a version that only added columns needs none.
        is_study_output: whether its rows belong to the models and recipes of studies; otherwise they apply to all
            studies.
        preview_columns: the most informative columns after the key, for short previews.
        example: query for `prunescope sql` that shows how to choose and join its rows; may be empty.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    invariants: tuple[Invariant, ...] = field(default=())
    may_be_empty: bool = False
    migrations: tuple[Migration, ...] = ()
    is_study_output: bool = True
    preview_columns: tuple[str, ...] = ()
    example: str = ""

    @property
    def version(self) -> int:
        """The latest version that a column is `since` or a migration leads to.

        It rises by one whenever a column is added, removed, renamed, or changes its type or meaning.
        """
        return max(*(column.since for column in self.columns), *(step.to for step in self.migrations), 1)

    @property
    def partitioning(self) -> Partitioning:
        """Whether there is one file per variant, because the key begins with model and recipe, or one per model."""
        return "variant" if self.key[:2] == _VARIANT.columns else "model"

    @property
    def references(self) -> tuple[ForeignKey, ...]:
        """Foreign key of the rows of a study: to their variant, or to their model if they are of no variant."""
        parent = _VARIANT if self.key[:2] == _VARIANT.columns != self.key else _MODEL
        return (parent,) if self.is_study_output and self.key != parent.columns else ()

    def arrow(self) -> pa.Schema:
        """Return the Arrow schema, with the grain and the version as metadata."""
        metadata = {b"grain": self.grain.encode(), VERSION_KEY: str(self.version).encode()}
        return pa.schema([column.field() for column in self.columns], metadata=metadata)

    def stored(self, version: int) -> dict[str, pa.DataType]:
        """Return the columns of files of one version; empty if the version does not exist."""
        if not 1 <= version <= self.version:
            return {}
        replaced = [column for step in self.migrations if step.to > version for column in step.replaced]
        return {column.name: column.type for column in (*self.columns, *replaced) if column.since <= version}


def sql_type(of: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type that a table uses."""
    if pa.types.is_dictionary(of):
        return sql_type(of.value_type)
    return f"{sql_type(of.value_type)}[]" if pa.types.is_list(of) else _TYPES[of]
