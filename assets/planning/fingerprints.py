"""What each partition depends on, as one hash per table: equal hash, equal rows, nothing to compute. No torch here.

A changed recipe parameter reaches that variant only, a changed prompt the traces only, a changed text its
table only, a changed view nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from prunescope.assets.settings import cache_folder
from prunescope.pipelines.core import code_versions
from prunescope.pipelines.core.hardware import hardware
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.corpora.text_sources import contents_hash
from prunescope.pipelines.evaluation.retrieval.beir_data import files_of, require_files
from prunescope.pipelines.evaluation.tasks.definition import contents_hash as task_hash
from prunescope.pipelines.evaluation.tasks.definition import described, harness, runs_code
from prunescope.pipelines.models.sources import ModelIdentity, file_hash, identify, locate, source_hash
from prunescope.pipelines.recipes import ExternalRecipe, Recipe, steps
from prunescope.pipelines.studies import CalibrationSpec, ModelSpec, Study, TextSpec
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.storage.provenance import fingerprint

MODEL_TABLES = ("models", "activation_stats", "block_influence")
TRACE_TABLES = (
    "layer_transitions",
    "decoding_steps",
    "top_tokens",
    "option_subspace",
    "generations",
    "hidden_states",
)
MASK_TABLE = "mask_samples"
TEXT_TABLE = "text_tokens"
TASK_TABLES = ("task_scores", "task_samples")
RETRIEVAL_TABLES = ("retrieval_scores", "retrieval_queries", "retrieval_embeddings")
SPEED_TABLE = "speed"
# What the verdicts of `prunescope advise` read; a study's texts, tasks and times stay as they are.
PROBE_TABLES = (*MODEL_TABLES, "variants", *TRACE_TABLES)
VARIANT_TABLES = ("variants", MASK_TABLE, *TRACE_TABLES, TEXT_TABLE, *TASK_TABLES, *RETRIEVAL_TABLES, SPEED_TABLE)

CODE_VERSIONS = {
    "models": code_versions.MODELS,
    "activation_stats": code_versions.STATISTICS,
    "block_influence": code_versions.STATISTICS,
    "variants": code_versions.PRUNING,
    MASK_TABLE: code_versions.MASKS,
    **dict.fromkeys(TRACE_TABLES, code_versions.TRACES),
    TEXT_TABLE: code_versions.TEXTS,
    **dict.fromkeys(TASK_TABLES, code_versions.TASKS),
    **dict.fromkeys(RETRIEVAL_TABLES, code_versions.RETRIEVAL),
    SPEED_TABLE: code_versions.SPEED,
}


@dataclass(frozen=True)
class DenseModel:
    """A study's model, found on disk.

    Attributes:
        spec: as the study names it.
        folder: safetensors, config and tokenizer.
        identity: hashes of their contents.
    """

    spec: ModelSpec
    folder: Path
    identity: ModelIdentity


def variant_tables(study: Study) -> tuple[str, ...]:
    """Those of VARIANT_TABLES that a study fills: what it does not name belongs to other studies of the variant."""
    left = set[str]()
    if not study.prompts:
        left.update(TRACE_TABLES)
    if not (study.prompts or study.texts):
        left.add(TEXT_TABLE)
    if not study.tasks:
        left.update(TASK_TABLES)
    if not study.retrieval:
        left.update(RETRIEVAL_TABLES)
    if not study.speed:
        left.add(SPEED_TABLE)
    return tuple(table for table in VARIANT_TABLES if table not in left)


def find_model(study: Study, name: str, cache: Path, progress: Progress) -> DenseModel:
    """Locates and hashes a model of the study; fetches or converts it where that was never done.

    Raises:
        InputError: the study has no such model, or its files are missing, cut short or unsafe.
    """
    spec = study.model(name)
    folder = locate(spec.source, cache, progress)
    return DenseModel(spec, folder, identify(folder, cache))


def inputs(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> dict[str, str]:
    """Everything that the rows of a partition follow from, by name.

    Args:
        table: one of MODEL_TABLES (without recipe) or VARIANT_TABLES (with one).
        study: prompts, texts, tasks, retrieval, speed, calibration and measurement settings.
        identity: the dense model.
        recipe: the recipe of a variant.
    """
    found = {"weight_hash": identity.weight_hash, "dtype": study.dtype, "code": CODE_VERSIONS[table]}
    if table == "models":
        return found | {"tokenizer_hash": identity.tokenizer_hash}
    if table in MODEL_TABLES:
        return found | {
            "tokenizer_hash": identity.tokenizer_hash,
            "calibration_hash": calibration_hash(study.calibration),
        }
    if recipe is None:
        raise ValueError(f"table {table} is kept per variant: a recipe is needed")
    if table == "variants":
        study = study.calibrated_for(recipe)
        needed = {name: fingerprint(inputs(name, study, identity, None)) for name in recipe.needs}
        if recipe.is_calibrated:
            needed |= {
                "tokenizer_hash": identity.tokenizer_hash,
                "calibration_hash": calibration_hash(study.calibration),
            }
        made = [source_hash(step.source, cache_folder()) for step in steps(recipe) if isinstance(step, ExternalRecipe)]
        return found | {"recipe_hash": recipe.hash} | needed | ({"external_hash": made[0]} if made else {})
    found |= {"variant": fingerprint(inputs("variants", study, identity, recipe))}
    if table in {MASK_TABLE, SPEED_TABLE}:
        return found | (_speed_inputs(study) if table == SPEED_TABLE else {})
    found |= {"tokenizer_hash": identity.tokenizer_hash}
    return found | _MEASURED[table](study)


def expected(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> str:
    """The fingerprint that a current partition carries in its footer."""
    return fingerprint(inputs(table, study, identity, recipe))


def accepted(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> Iterator[str]:
    """Fingerprints under which a partition counts as current, the expected one first.

    Where programs may not run, rows of which they did run hold all that is wanted, and verdicts besides.
    """
    yield expected(table, study, identity, recipe)
    if table in TASK_TABLES and not study.allow_code_execution:
        yield expected(table, study.model_copy(update={"allow_code_execution": True}), identity, recipe)


def variant_file(study: Study, dense: DenseModel, recipe: Recipe) -> str:
    """Place of a variant's masks in the warehouse.

    The fingerprint in its name keeps masks of other parameters, left by a killed run, from ever being taken for it.
    """
    found = expected("variants", study, dense.identity, recipe)
    return f"_variants/{path_safe(dense.spec.name)}/{path_safe(recipe.name)}/{found[:16]}.safetensors"


def calibration_hash(spec: CalibrationSpec) -> str:
    """Hash of the settings and of the contents of the calibration text."""
    return fingerprint({"settings": spec.hash, "contents": contents_hash(spec.source, "calibration source")})


def _speed_inputs(study: Study) -> dict[str, str]:
    """What is run, and where: times of another machine are measured again on this one."""
    if not study.speed:
        return {"speed_hash": ""}
    libraries = f"torch {version('torch')}, transformers {version('transformers')}"
    where = {"device": study.device, "hardware": hardware(), "libraries": libraries}
    return {"speed_hash": fingerprint({spec.what: spec.hash for spec in study.speed})} | where


def texts_hash(texts: Sequence[TextSpec]) -> str:
    """Hash of the settings and the contents of all texts of a study."""
    return fingerprint({text.id: [text.hash, contents_hash(text.source, text.what)] for text in texts})


def tasks_hash(study: Study) -> str:
    """Hash of the settings and the contents of all tasks of a study, and of whether their programs run."""
    return fingerprint(_tasks(study))


def _tasks(study: Study) -> dict[str, str]:
    """What the scores follow from: the harness, every task's settings and contents, leave to run programs."""
    if not study.tasks:
        return {}
    found = {"harness": harness()}
    for task in study.tasks:
        found |= {f"task {task.name}": described(task), f"task {task.name} hash": task_hash(task)}
    if any(runs_code(task) for task in study.tasks):
        found["code_execution"] = "allowed" if study.allow_code_execution else "not allowed"
    return found


def retrieval_hash(data_sets: Sequence[RetrievalSpec]) -> str:
    """Hash of the settings and of the files of all retrieval data sets of a study."""
    found = {}
    for each in data_sets:
        require_files(each)
        found[each.name] = [each.hash, *(file_hash(file, cache_folder()) for file in files_of(each))]
    return fingerprint(found)


# What measures of a variant follow from beside the variant itself.
_MEASURED: dict[str, Callable[[Study], dict[str, str]]] = {
    **dict.fromkeys(
        TRACE_TABLES, lambda study: {"prompts_hash": study.prompts_hash, "settings_hash": study.settings_hash}
    ),
    TEXT_TABLE: lambda study: {"texts_hash": texts_hash(study.texts)},
    **dict.fromkeys(TASK_TABLES, _tasks),
    **dict.fromkeys(RETRIEVAL_TABLES, lambda study: {"retrieval_hash": retrieval_hash(study.retrieval)}),
}
