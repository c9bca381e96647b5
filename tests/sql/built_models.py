"""Several models whose variants are probed and scored: as the marts that predictions read, or from the tables up."""

from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import polars as pl

from tests.sql.built_tasks import task_sample, task_score
from tests.sql.warehouse_builder import Handmade

# Maps a probe and a source of chance to the losses of writing and choosing.
Losses = Callable[[float, np.random.Generator], tuple[float, float]]


def cliff(damage: float, _: np.random.Generator) -> tuple[float, float]:
    """Lose all writing from 0.3 on and all choosing from 3 on."""
    return float(damage > 0.3), float(damage > 3)


def chance(_: float, source: np.random.Generator) -> tuple[float, float]:
    """Draw both losses at random, independent of the probe."""
    return float(source.random()), float(source.random())


def known(
    connection: duckdb.DuckDBPyConnection,
    scored: Mapping[str, Sequence[float]],
    losses: Losses,
    unscored: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Replace the two marts by variants `r0`, `r1`, … of each model, which differ in the KL at the first token."""
    probes, lost = [], []
    for seed, (model, damages) in enumerate([*scored.items(), *(unscored or {}).items()]):
        source = np.random.default_rng(seed)
        for index, damage in enumerate(damages):
            variant = {"model": model, "recipe": f"r{index}"}
            probes.append({**variant, "probe": "kl_step0", "damage": float(damage)})
            if model in scored:
                for kind, loss in zip(("generative", "non_generative"), losses(damage, source), strict=True):
                    row = {**variant, "measure": "score", "kind": kind, "n_tasks": 1, "loss": loss, "loss_se": 0.01}
                    lost.append(row)
    columns = {
        "model": str,
        "recipe": str,
        "measure": str,
        "kind": str,
        "n_tasks": int,
        "loss": float,
        "loss_se": float,
    }
    for name, frame in (("damage_probes", pl.DataFrame(probes)), ("task_losses", pl.DataFrame(lost, schema=columns))):
        connection.register(f"built_{name}", frame.to_arrow())
        connection.execute(f"create or replace view {name} as select * from built_{name}")


def probed(warehouse: Handmade, model: str, nats: Sequence[float]) -> None:
    """Build a dense variant and one for each KL: two tokens of a prompt, four questions of which one or all change."""
    warehouse.variant("dense", model=model).step("dense", "p", 0, model=model)
    for index, kl in enumerate(nats):
        recipe = f"r{index}"
        warehouse.variant(recipe, removed=0.1, model=model)
        for step in (0, 1):
            warehouse.step(recipe, "p", step, kl, flips=step == 1 and kl > 1, model=model)
        for question in range(4):
            pruned = [0.1, 0.2] if question < (4 if kl > 5 else 1) else [0.2, 0.1]
            warehouse.options(recipe, f"q{question}", [0.2, 0.1], pruned, model=model)


def scored(warehouse: Handmade, model: str, nats: Sequence[float], losses: Losses) -> None:
    """Build the same with the scores of a task with four options and of one with written answers."""
    probed(warehouse, model, nats)
    options = {"scoring": "full_text", "log_likelihoods": [-1.0, -2.0, -3.0, -4.0]}
    task_sample(warehouse, "dense", "arc", "s", model=model, **options)
    kinds = {"kind": "generative", "metric": "exact_match"}
    for seed, (recipe, kl) in enumerate([("dense", 0.0), *((f"r{index}", kl) for index, kl in enumerate(nats))]):
        writing, choosing = (0.0, 0.0) if recipe == "dense" else losses(kl, np.random.default_rng(seed))
        task_score(warehouse, recipe, "arc", 0.25 + 0.6 * (1 - choosing), standard_error=0.01, model=model)
        task_score(warehouse, recipe, "gsm8k", 0.8 * (1 - writing), standard_error=0.01, model=model, **kinds)
