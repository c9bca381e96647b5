"""What a table is: its columns with unit, formula and source, its key and its grain.

Everything else derives from these objects: Arrow schema, DuckDB comments, checks, dictionary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

Partitioning = Literal["model", "variant"]
# Under which the Arrow schema, and so every file, says the version of its table.
VERSION_KEY = b"version"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: quantity and unit or form, the same in every table.
        type: Arrow type.
        doc: what it is, one sentence.
        unit: physical or logical unit; empty for names and counts that say it themselves.
        formula: how it is computed.
        source: theorem, section or definition that it comes from.
        cost: what it takes to compute, beside what its neighbours need anyway; empty where that is nothing.
        nullable: whether NULL has a meaning (then `doc` says which).
        minimum: smallest legal value, checked.
        maximum: largest legal value, checked.
        values: the legal values of a categorical column, checked.
        is_timing: differs between two equal runs (seconds, memory), so not compared.
        since: version of the table that brought the column; files of earlier ones have NULL, or what a migration
            makes of their columns.
    """

    name: str
    type: pa.DataType
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

    def but(self, **changes: object) -> "Column":
        """The same quantity with some attributes changed for one table."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def comment(self) -> str:
        """The one-line comment that DuckDB and the Dagster UI show."""
        parts = [self.doc]
        if self.unit:
            parts.append(f"[{self.unit}]")
        if self.formula:
            parts.append(f"= {self.formula}")
        if self.source:
            parts.append(f"({self.source})")
        if self.cost:
            parts.append(f"Cost: {self.cost}.")
        return " ".join(parts)

    def field(self) -> pa.Field:
        """The Arrow field, with unit, formula and source as metadata."""
        described = {
            "doc": self.doc,
            "unit": self.unit,
            "formula": self.formula,
            "source": self.source,
            "cost": self.cost,
        }
        metadata = {key: value for key, value in described.items() if value}
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


@dataclass(frozen=True)
class Invariant:
    """A statement that holds in every row: a name and a SQL condition over the table's columns."""

    name: str
    condition: str


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: every row has its row in another table.

    Attributes:
        table: name of the other table.
        columns: its key, which the rows hold under the same names.
    """

    table: str
    columns: tuple[str, ...]

    def __str__(self) -> str:
        """As SQL says it."""
        columns = ", ".join(self.columns)
        return f"({columns}) references {self.table} ({columns})"


@dataclass(frozen=True)
class Migration:
    """How the columns of one version of a table become those of the next, where columns were renamed or retyped.

    Attributes:
        to: the version that it leads to.
        replaced: the columns that go, as the earlier version had them.
        computed: SQL expressions over the earlier version's columns, by the names of the columns that come.
    """

    to: int
    replaced: tuple[Column, ...]
    computed: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class Table:
    """One table: grain in a sentence, key, columns.

    Attributes:
        name: file-system and SQL name.
        grain: "one row per ..." in one sentence.
        key: columns that identify a row.
        columns: in the order in which they are stored.
        partitioning: one file per model, or one per variant (model and recipe).
        invariants: identities between columns, checked on every row.
        may_be_empty: whether a partition without rows is legal.
        references: foreign keys.
        version: rises by one whenever a column comes, goes or changes its name, type or meaning.
        migrations: from earlier versions, in order; a version that only brought columns needs none.
        is_of_studies: whether studies compute its rows. What is not belongs to no study's models: it is there for all.
        telling: the columns beside the key that say most, for where there is room for few.
        example: a query that shows how its rows are chosen and joined, for `prunescope sql`; empty where that is plain.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    partitioning: Partitioning
    invariants: tuple[Invariant, ...] = field(default=())
    may_be_empty: bool = False
    references: tuple[ForeignKey, ...] = ()
    version: int = 1
    migrations: tuple[Migration, ...] = ()
    is_of_studies: bool = True
    telling: tuple[str, ...] = ()
    example: str = ""

    def __post_init__(self) -> None:
        """Refuses a table whose key or references are not among its columns, or whose names or versions clash."""
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name}: a column name repeats")
        if not set(self.key) <= set(names):
            raise ValueError(f"table {self.name}: key {self.key} is not among its columns")
        if not set(self.telling) <= set(names):
            raise ValueError(f"table {self.name}: {self.telling} are not among its columns")
        if missing := [each for each in self.references if not set(each.columns) <= set(names)]:
            raise ValueError(f"table {self.name}: {missing[0]} names a column that it has not")
        steps = [each.to for each in self.migrations]
        if steps != sorted(set(steps)) or not set(steps) <= set(range(2, self.version + 1)):
            raise ValueError(f"table {self.name}: migrations to {steps} do not lead to version {self.version}")
        if max(column.since for column in self.columns) > self.version:
            raise ValueError(f"table {self.name}: a column came after version {self.version}")

    def arrow(self) -> pa.Schema:
        """The Arrow schema, with the grain and the version as metadata."""
        metadata = {b"grain": self.grain.encode(), VERSION_KEY: str(self.version).encode()}
        return pa.schema([column.field() for column in self.columns], metadata=metadata)

    def stored(self, version: int) -> dict[str, pa.DataType]:
        """The columns that files of one version have; empty for a version that never was."""
        if not 1 <= version <= self.version:
            return {}
        replaced = [column for step in self.migrations if step.to > version for column in step.replaced]
        return {column.name: column.type for column in (*self.columns, *replaced) if column.since <= version}

    def column(self, name: str) -> Column:
        """The column of that name; KeyError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}")
