"""A warehouse written by hand: tests give the numbers that matter, the rest is filled in so that all checks pass.

Rows stay in memory, or go through the real store where a test needs files; no view is named here.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import polars as pl
import pyarrow as pa

from prunescope.pipelines.core.quoting import quoted
from prunescope.warehouse.catalogue import database
from prunescope.warehouse.catalogue.materialized import Materialized
from prunescope.warehouse.quality import checks
from prunescope.warehouse.schema.table import Table, sql_type
from prunescope.warehouse.storage.partition_store import Store, to_arrow
from prunescope.warehouse.storage.provenance import Provenance
from prunescope.warehouse.storage.snapshot import FOOTERS
from prunescope.warehouse.tables import TABLES
from prunescope.warehouse.tables.columns import DIVERGENCE

Row = dict[str, Any]
Ask = Callable[["Handmade", str], list[Row]]

MODEL = "tiny"
LAYERS = 2
VOCABULARY = 100
PROMPT_TOKENS = 5


class Handmade:
    """Rows by table, written as partitions; `studies` and `inputs` have the provenance of recipes."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {name: [] for name in TABLES}
        self.studies: dict[str | None, str] = {}
        self.inputs: dict[str | None, dict[str, str]] = {}

    def model(self, model: str = MODEL) -> Self:
        """Add a dense model of two layers with a vocabulary of 100."""
        row: Row = dict.fromkeys(("parameters", "parameters_attn", "parameters_mlp", "parameters_embedding"), 1000)
        row |= {name: name for name in ("revision", "architecture", "weight_hash", "tokenizer_hash")}
        row |= {"source": "embedded", "layers": LAYERS, "hidden_size": 8, "vocabulary": VOCABULARY}
        row |= {"context_length": 64, "is_head_tied": True, "final_norm": "rms", "dtype": "float32"}
        row |= {"weight_bytes": 4000, "weight_format": "Q4_1: 79 % Q4_1, 21 % Q8_0"}
        return self.add("models", model=model, **row)

    def variant(
        self,
        recipe: str,
        *,
        method: str = "wanda",
        sparsity: float = 0.0,
        removed: float = 0.0,
        saved: float | None = None,
        dropped: Sequence[str] = (),
        model: str = MODEL,
        **parameters: object,
    ) -> Self:
        """Add a row of `variants`; `saved` is its share of bytes, and further arguments are the recipe's parameters."""
        row: Row = dict.fromkeys(("recipe", "recipe_hash", "variant_hash"), recipe)
        row |= {"method": "dense" if recipe == "dense" else method, "sparsity": sparsity, "facts_json": "{}"}
        row |= {"parameters_json": json.dumps(parameters, sort_keys=True), "parameters_removed_share": removed}
        row |= {"weights_prunable": 1000, "weights_masked": round(1000 * sparsity), "weights_updated": 0}
        row |= {"parameters_removed": round(1000 * removed), "drop_order": [], "drop_scores": []}
        row |= {"bytes_removed": round(2000 * (removed if saved is None else saved)), "calibration_hash": None}
        row |= {"sublayers_dropped": list(dropped), "sublayers_changed": len(dropped)}
        return self.add("variants", model=model, file_bytes=1, seconds=1.0, peak_memory_bytes=1, **row)

    def transition(
        self,
        recipe: str,
        prompt: str,
        step: int,
        kl: float = 0.0,
        *,
        layer: int = 0,
        sublayer: str = "attn",
        scope: str = "local",
        lens: str = "normed",
        temperature: float = 1.0,
        is_changed: bool = True,
        model: str = MODEL,
        **given: object,
    ) -> Self:
        """Add a row of `layer_transitions`; divergences that are not given follow from `kl`."""
        row: Row = {"layer": layer, "sublayer": sublayer, "scope": scope, "lens": lens, "is_changed": is_changed}
        row |= _place(prompt, step, temperature) | divergence(kl, temperature, **given)
        return self.add("layer_transitions", model=model, recipe=recipe, **row)

    def step(
        self,
        recipe: str,
        prompt: str,
        step: int,
        kl: float = 0.0,
        *,
        trajectory: str = "teacher_forced",
        temperature: float = 1.0,
        flips: bool = False,
        model: str = MODEL,
        **given: object,
    ) -> Self:
        """Add a row of `decoding_steps`; where it flips, the pruned model emits token 9 instead of token 7."""
        repeats = {name: given.pop(name, 0.0) for name in ("repeat_rate_dense", "repeat_rate_pruned")}
        row: Row = {"token_id_dense": 7, "token_id_pruned": 9 if flips else 7, "token_text_dense": f"d{step}"}
        row |= {"token_text_pruned": f"x{step}" if flips else f"d{step}", "trajectory": trajectory} | repeats
        row |= _place(prompt, step, temperature) | divergence(kl, temperature, flips=flips, **given)
        return self.add("decoding_steps", model=model, recipe=recipe, **row)

    def generation(
        self,
        recipe: str,
        prompt: str,
        *,
        flip: int | None = None,
        collapse: int | None = None,
        answer_end: int | None = None,
        is_correct: bool | None = None,
        **given: object,
    ) -> Self:
        """Add a row of `generations`."""
        row: Row = {"prompt_id": prompt, "kind": "open", "prompt_text": "why?", "prompt_tokens": PROMPT_TOKENS}
        row |= {"text": "because", "token_ids": [7], "first_flip_step": flip, "collapse_step": collapse}
        row |= {"answer_end_step": answer_end, "repeat_rate": 0.0, "distinct_1": 1.0, "distinct_2": 1.0}
        row |= {"gold": None if is_correct is None else "12", "is_correct": is_correct}
        forks = ("text", "token_ids", "collapse_step", "end_step", "answer", "is_correct")
        row |= {"thinking_steps": 0, "thinking_text": None, "thinking_answer": None}
        row |= dict.fromkeys(("end_step", "answer", *(f"{name}_fork" for name in forks)))
        return self.add("generations", recipe=recipe, **(row | given))

    def options(
        self,
        recipe: str,
        prompt: str,
        dense: Sequence[float],
        pruned: Sequence[float],
        *,
        ranks_dense: Sequence[int] | None = None,
        ranks_pruned: Sequence[int] | None = None,
        temperature: float = 1.0,
        gold: str | None = None,
        model: str = MODEL,
        **given: object,
    ) -> Self:
        """Add a row of `option_subspace` from the options' probabilities in the whole vocabulary."""
        labels = [chr(ord("A") + index) for index in range(len(dense))]
        best = [labels[max(range(len(side)), key=side.__getitem__)] for side in (dense, pruned)]
        row: Row = {"prompt_id": prompt, "temperature": temperature, "options": labels, "gold": gold}
        row |= {"option_token_ids": list(range(len(labels))), "argmax_dense": best[0], "argmax_pruned": best[1]}
        row |= {"is_argmax_same": best[0] == best[1], "kendall_tau": kendall_tau(dense, pruned)}
        row |= {"rank_dense": list(ranks_dense or _places(dense)), "rank_pruned": list(ranks_pruned or _places(pruned))}
        row |= dict.fromkeys([f"one_minus_cos_{at}" for at in ("h", "z", "p", "z_options", "p_options")], 0.0)
        row |= dict.fromkeys(("kl_options_dense_pruned_nats", "kl_dense_pruned_nats"), 0.0)
        for side, masses in (("dense", dense), ("pruned", pruned)):
            row[f"logits_{side}"] = [math.log(mass) for mass in masses]
            row[f"p_full_{side}"] = list(masses)
            row[f"p_options_{side}"] = [mass / sum(masses) for mass in masses]
            row[f"mass_{side}"] = sum(masses)
        return self.add("option_subspace", model=model, recipe=recipe, **(row | given))

    def top_tokens(
        self,
        recipe: str,
        prompt: str,
        step: int,
        *,
        trajectory: str = "teacher_forced",
        flips: bool = False,
        model: str = MODEL,
    ) -> Self:
        """Add both sides' top two at one step: tokens 7 and 9, which are swapped on the pruned side if it flips."""
        logits = {7: (2.0, 1.0 if flips else 2.0), 9: (1.0, 2.0 if flips else 1.0)}
        of_step: Row = {"prompt_id": prompt, "trajectory": trajectory, "step": step}
        of_step |= {"probability_dense": 0.4, "probability_pruned": 0.4}
        for side, order in (("dense", (7, 9)), ("pruned", (9, 7) if flips else (7, 9))):
            for rank, token in enumerate(order, start=1):
                row: Row = {"side": side, "rank": rank, "token_id": token, "token_text": f"t{token}"} | of_step
                row |= dict(zip(("logit_dense", "logit_pruned"), logits[token], strict=True))
                self.add("top_tokens", model=model, recipe=recipe, **row)
        return self

    def where(self, table: str, **wanted: object) -> list[Row]:
        """Return the rows of a table with these values, to be changed in place."""
        found = [row for row in self.rows[table] if all(row[name] == value for name, value in wanted.items())]
        assert found, f"no row of {table} has {wanted}"
        return found

    def opened(self) -> duckdb.DuckDBPyConnection:
        """Open the catalogue over the rows as they are, in memory."""
        memory = Memory()
        memory.fill(self)
        return memory.connection

    def connect(self, root: Path) -> duckdb.DuckDBPyConnection:
        """Write all partitions below the folder and open the catalogue on them."""
        for name in TABLES:
            assert self.write(root, name) == []
        return database.connect(root)

    def write(self, root: Path, name: str) -> list[str]:
        """Write one table; return the checks that its rows break."""
        table = TABLES[name]
        broken = []
        for (model, recipe), rows in self.partitions(table).items():
            written = Store(root).write(table, frame_of(table, rows), self.provenance(model, recipe), model, recipe)
            broken += [str(violation) for violation in written.violations]
        return broken

    def provenance(self, model: str, recipe: str | None) -> Provenance:
        study, inputs = self.studies.get(recipe, "by hand"), self.inputs.get(recipe, {})
        settings = {"seed": 0, "device": "cpu", "dtype": "float32", "seconds": 0.0}
        created = "2026-01-02T03:04:05+00:00"
        return Provenance("f", study, model, recipe, inputs, "0", {}, **settings, created_at=created)

    def partitions(self, table: Table) -> dict[tuple[str, str | None], list[Row]]:
        partitions: dict[tuple[str, str | None], list[Row]] = {}
        for row in self.rows[table.name]:
            recipe = row["recipe"] if table.partitioning == "variant" else None
            partitions.setdefault((row["model"], recipe), []).append(row)
        return partitions

    def add(self, table: str, **row: object) -> Self:
        """Add a row of any table, all columns but `model` given."""
        row = {"model": MODEL} | row
        columns = [column.name for column in TABLES[table].columns]
        assert sorted(row) == sorted(columns), (
            f"{table}: {set(row) ^ set(columns)}; a new column has a value in every row made by hand, which the "
            "methods of Handmade and tests/sql/built_*.py give"
        )
        self.rows[table].append(row)
        return self


class Memory:
    """The catalogue's views over tables in memory, which can be filled again and again.

    Views read the files of a table under one name, which is a table of rows here.
    """

    def __init__(self) -> None:
        self.connection = database.connect("memory://nothing")
        self._filled: set[str] = set()
        footers = self.connection.sql(f"select * from {FOOTERS}")
        self._columns = dict(zip(footers.columns, footers.types, strict=True))
        typed = {name: _typed(table) for name, table in TABLES.items()} | {database.PROVENANCE: self._columns}
        for name, columns in typed.items():
            declared = ", ".join(f"{quoted(column)} {of}" for column, of in columns.items())
            place = f"files.{quoted(f'{name}_files')}"
            self.connection.execute(f"drop view {place}; create table {place} ({declared})")

    def fill(self, warehouse: Handmade, *, checked: bool = True) -> None:
        """Replace all rows.

        Args:
            warehouse: the rows.
            checked: whether they must keep every check of their tables.
        """
        footers = []
        for name, table in TABLES.items():
            self.fill_table(table, warehouse.rows[name], checked=checked)
            for (model, recipe), rows in warehouse.partitions(table).items():
                footers += self._footer(name, warehouse.provenance(model, recipe), len(rows))
        places = ", ".join(
            f"({', '.join('?' * len(self._columns))})" for _ in range(len(footers) // len(self._columns))
        )
        self.connection.execute(f"truncate {FOOTERS}")
        if footers:
            self.connection.execute(f"insert into {FOOTERS} values {places}", footers)

    def fill_table(self, table: Table, rows: Sequence[Row] | pl.DataFrame | pa.Table, *, checked: bool = True) -> None:
        """Replace the rows of one table; an Arrow table has its columns already, and may have NULL in any."""
        place = f"files.{quoted(f'{table.name}_files')}"
        if table.name in self._filled:
            self.connection.execute(f"truncate {place}")
            self._filled.remove(table.name)
        if len(rows):
            self._filled.add(table.name)
            frame = rows if isinstance(rows, pl.DataFrame | pa.Table) else frame_of(table, rows)
            arrow = frame if isinstance(frame, pa.Table) else to_arrow(table, frame)
            assert not checked or checks.violations(table, arrow) == []
            self.connection.register("rows_to_insert", checks._widened(arrow))
            self.connection.execute(f"insert into {place} by name from rows_to_insert")
            self.connection.unregister("rows_to_insert")

    def _footer(self, table: str, made: Provenance, rows: int) -> list[object]:
        known = {
            "table_name": table,
            "path": f"{table}/{made.model}/{made.recipe}",
            "source": "memory",
            "inputs_json": json.dumps(made.inputs),
            "libraries_json": json.dumps(made.libraries),
            "violations": [],
            "rows": rows,
            "bytes": 1,
        }
        return [known[name] if name in known else getattr(made, name, None) for name in self._columns]


def _typed(table: Table) -> dict[str, str]:
    return {column.name: sql_type(column.type) for column in table.columns}


def frame_of(table: Table, rows: Sequence[Row]) -> pl.DataFrame:
    """Return rows as a frame of the table's columns."""
    return pl.DataFrame({column.name: [row[column.name] for row in rows] for column in table.columns}, strict=False)


def divergence(kl: float, temperature: float = 1.0, *, flips: bool = False, **given: Any) -> Row:
    """Return all divergence columns: those given, the others such that identities hold; all 0 for a KL of 0."""
    row: Row = dict.fromkeys((column.name for column in DIVERGENCE), 0.0)
    kl = given.get("kl_dense_pruned_nats", kl)
    ones = [f"norm_{space}" for space in "hzp"] + [f"entropy_{side}_nats" for side in ("dense", "pruned")]
    row |= dict.fromkeys((*ones, "margin_dense", "margin_pruned", "topk5_overlap"), 1.0)
    row |= {f"one_minus_cos_{space}": min(kl / scale, 1.0) for space, scale in (("h", 1000), ("z", 100), ("p", 10))}
    row |= dict.fromkeys(("var_p_dz", "var_q_dz"), 2 * temperature**2 * kl)
    row |= {"var_rq_dz": 2 * temperature**2 * min(kl / 10, 1.0), "var_uniform_dz": kl}
    row |= {"kl_dense_pruned_nats": kl, "kl_pruned_dense_nats": kl, "js_nats": min(kl / 8, 0.69)}
    row |= {"total_variation": min(math.sqrt(kl / 2), 1.0) / 2, "is_top1_same": not flips}
    row |= dict.fromkeys(("rank_of_dense_top1", "rank_of_pruned_top1"), 2 if flips else 1)
    row |= {"p_dense_top1_dense": 0.5, "p_dense_top1_pruned": 0.5} | given
    row["t1_h"] = given.get("t1_h", row["one_minus_cos_h"])
    row["t1_z"] = given.get("t1_z", row["one_minus_cos_z"])
    for space in "hz":
        row[f"orth_rel_{space}"] = given.get(f"orth_rel_{space}", math.sqrt(2 * row[f"t1_{space}"]))
    row["orth_rel_p"] = given.get("orth_rel_p", math.sqrt(2 * row["one_minus_cos_p"]))
    for space in "hzp":
        row[f"norm_d{space}"] = given.get(
            f"norm_d{space}", math.hypot(row[f"orth_rel_{space}"], row[f"par_rel_{space}"])
        )
    # An estimate or its variance may be given; the other follows from it.
    half = 2 * temperature**2
    row["t2_p"] = given.get("t2_p", row["var_r_dz"] / half if "var_r_dz" in given else row["one_minus_cos_p"])
    row["var_r_dz"] = half * row["t2_p"]
    row["t3_kl_nats"] = given.get("t3_kl_nats", row["var_p_dz"] / half)
    row["var_p_dz"] = half * row["t3_kl_nats"]
    return row


def materialized(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Compute every view once for all tests that read it; `test_materialized.py` proves that the rows are equal."""
    tables = Materialized(connection)
    for name in database.view_sql():
        tables.prepare(f"FROM {name}")
    return connection


def prepared(connection: duckdb.DuckDBPyConnection, sql: str, **given: Any) -> duckdb.DuckDBPyRelation:
    """Compute the views that a query reads one by one, then the query: as a whole, planning takes ten times as long."""
    Materialized(connection).prepare(sql)
    return connection.sql(sql, **given)


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    """Return the rows of a query, or of the view of that name, as dictionaries."""
    result = connection.execute(f"select * from {sql}" if " " not in sql else sql)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Kendall's tau without ties: concordant minus discordant pairs over all pairs."""
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    signs = [math.copysign(1, (first[i] - first[j]) * (second[i] - second[j])) for i, j in pairs]
    return sum(signs) / len(pairs)


def _place(prompt: str, step: int, temperature: float) -> Row:
    return {"prompt_id": prompt, "step": step, "position": PROMPT_TOKENS - 1 + step, "temperature": temperature}


def _places(values: Sequence[float]) -> list[int]:
    return [1 + sum(other > value for other in values) for value in values]
