"""A large warehouse grown from a small one, for `warehouse` and for the report.

`python -m tests.benchmarks.grown_warehouse WAREHOUSE FOLDER [PROMPTS [VARIANTS]]` writes a study of many prompts: by
default 300 prompts × 30 variants, the layers of twelve prompts. The variants of the small warehouse's first model get
other names, their prompts are copied under other names, and each row's shift is scaled by a random factor: divergences
of first order by it, of second order by its square, so that identities hold.
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs

from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

FIRST_ORDER = "^(norm_d|par_rel|orth_rel|total_variation)"
SECOND_ORDER = "^(one_minus|t[123]_|var_|kappa|kl_|js_|identity)"


@dataclass(frozen=True)
class Copy:
    """A variant of the small warehouse under other names.

    Attributes:
        of: its model and its recipe.
        model: the copy's model.
        recipe: the copy's recipe.
        prompts: copies of each prompt.
        layered: of these, the ones that keep their layers.
    """

    of: tuple[str, str]
    model: str
    recipe: str
    prompts: int
    layered: int


def variants_of(small: Path) -> list[tuple[str, str]]:
    """Return the variants of the first model."""
    found = [(each.model, each.recipe or "") for each in Store(small).partitions(TABLES["variants"])]
    return [each for each in found if each[0] == found[0][0]]


def write(small: Path, large: Path, copy: Copy) -> dict[str, float]:
    """Write a copy, and with the dense one its model's tables; return figures of its layer records.

    Raises:
        RuntimeError: rows break a check of their table.
    """
    rng, figures = np.random.default_rng([*map(ord, f"{copy.model}@{copy.recipe}")]), dict[str, float]()
    model, recipe = copy.of
    for name, table in TABLES.items():
        is_of_variant = table.partitioning == "variant"
        place = (model, recipe if is_of_variant else None)
        provenance = Store(small).provenance(table, *place)
        if provenance is None or not (is_of_variant or recipe == "dense"):
            continue
        rows = pl.DataFrame(Store(small).read(table, *place)).with_columns(model=pl.lit(copy.model))
        own = copy.recipe if is_of_variant else None
        rows = rows.with_columns(recipe=pl.lit(own)) if is_of_variant else rows
        if "prompt_id" in rows.columns:
            count = copy.layered if name == "layer_transitions" else copy.prompts
            rows = pl.concat(rows.with_columns(pl.col("prompt_id").cast(pl.String) + f"-{n}") for n in range(count))
        scale = pl.Series(rng.uniform(0.5, 1, len(rows)).astype(np.float32))
        shifts = (cs.float() & cs.matches(FIRST_ORDER)) * scale, (cs.float() & cs.matches(SECOND_ORDER)) * scale**2
        rows = rows.with_columns(*shifts)
        start, processor = time.perf_counter(), time.process_time()
        names = {"model": copy.model, "recipe": own}
        written = Store(large).write(table, rows, replace(provenance, **names), copy.model, own)
        if written.violations:
            raise RuntimeError(f"{name} of {copy.model}@{copy.recipe}: {written.violations[0]}")
        if name == "layer_transitions":
            spent = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
            figures = {"rows": written.rows, "bytes": written.bytes} | spent
    return figures


def main(small: Path, large: Path, prompts: int = 300, variants: int = 30) -> None:
    """Write a study of many prompts; the first variants keep their names."""
    known = variants_of(small)
    model, recipe = known[0]
    own = pl.DataFrame(Store(small).read(TABLES["generations"], model, recipe))["prompt_id"].n_unique()
    for at in range(variants):
        of, turn = known[at % len(known)], at // len(known)
        name = of[1] if turn == 0 else f"{of[1]}-{turn}"
        write(small, large, Copy(of, "bench/many-prompts", name, -(-prompts // own), -(-12 // own)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))
