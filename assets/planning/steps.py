"""The registry of steps: the tables that each one computes, their code version, and the studies that request them."""

from collections.abc import Collection
from dataclasses import dataclass

from prunescope.pipelines.core import code_versions
from prunescope.pipelines.recipes import Recipe
from prunescope.pipelines.studies import Study


@dataclass(frozen=True)
class Step:
    """One computation for one model or one variant; if one of its tables is missing or stale, all are computed.

    Attributes:
        name: name in tasks, assets and messages.
        tables: the tables that the step writes, in this order.
        code_version: version of the code that computes the rows; part of their fingerprints.
        group: asset group in Dagster.
        study_fields: a study requests the step by filling one of these fields; without any, every study requests it.
        is_of_model: whether the step computes a model rather than a variant.
        upstream: the assets that its tables are computed from.
    """

    name: str
    tables: tuple[str, ...]
    code_version: str
    group: str
    study_fields: tuple[str, ...] = ()
    is_of_model: bool = False
    upstream: tuple[str, ...] = ("variants",)

    def is_requested_by(self, study: Study) -> bool:
        """Return whether the study fills the step's tables."""
        return not self.study_fields or any(getattr(study, name) for name in self.study_fields)


_ALL = (
    Step("models", ("models",), code_versions.MODELS, "models", is_of_model=True, upstream=()),
    Step(
        "calibration",
        ("activation_stats", "block_influence"),
        code_versions.STATISTICS,
        "statistics",
        is_of_model=True,
        upstream=("models",),
    ),
    Step(
        "variants",
        ("variants",),
        code_versions.PRUNING,
        "variants",
        upstream=("recipe", "models", "activation_stats", "block_influence"),
    ),
    Step("mask_samples", ("mask_samples",), code_versions.MASKS, "variants"),
    Step(
        "traces",
        ("layer_transitions", "decoding_steps", "top_tokens", "option_subspace", "generations", "hidden_states"),
        code_versions.TRACES,
        "traces",
        study_fields=("prompts",),
    ),
    Step(
        "sampling",
        ("sampled_generations", "sampled_steps"),
        code_versions.SAMPLING,
        "traces",
        study_fields=("decoding",),
    ),
    Step("texts", ("text_tokens",), code_versions.TEXTS, "traces", study_fields=("prompts", "texts")),
    Step("tasks", ("task_scores", "task_samples"), code_versions.TASKS, "tasks", study_fields=("tasks",)),
    Step(
        "retrieval",
        ("retrieval_scores", "retrieval_queries", "retrieval_embeddings"),
        code_versions.RETRIEVAL,
        "tasks",
        study_fields=("retrieval",),
    ),
    Step("speed", ("speed",), code_versions.SPEED, "tasks", study_fields=("speed",)),
    Step(
        "search",
        ("search_effects", "search_trials"),
        code_versions.SEARCH,
        "search",
        study_fields=("search",),
        is_of_model=True,
        upstream=("models", "activation_stats", "block_influence"),
    ),
)
# In the order of the data flow.
STEPS = {step.name: step for step in _ALL}

# The tables of a model that every study fills; a search is computed after the variants, on Ray beside them.
MODEL_TABLES = tuple(table for step in _ALL if step.is_of_model and not step.study_fields for table in step.tables)
SEARCH_TABLES = STEPS["search"].tables
VARIANT_TABLES = tuple(table for step in _ALL if not step.is_of_model for table in step.tables)
TRACE_TABLES = STEPS["traces"].tables
# The tables that the verdicts of `prunescope advise` read.
PROBE_TABLES = (*MODEL_TABLES, *STEPS["variants"].tables, *TRACE_TABLES)
CODE_VERSIONS = {table: step.code_version for step in _ALL for table in step.tables}
STEP_OF_TABLE = {table: step for step in _ALL for table in step.tables}


def steps_writing(tables: Collection[str]) -> list[Step]:
    """Return the steps that write at least one of the tables."""
    return [step for step in _ALL if set(step.tables) & set(tables)]


def partition_tables(study: Study, recipe: Recipe | None) -> tuple[str, ...]:
    """Return the tables that a study fills for a model (no recipe) or a variant; it leaves the others as they are."""
    return tuple(
        table
        for step in _ALL
        if step.is_of_model == (recipe is None) and step.is_requested_by(study)
        for table in step.tables
    )
