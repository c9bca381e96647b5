"""Fingerprints: one hash per partition over all inputs of its rows. Equal hash, equal rows, nothing to compute.

A changed recipe parameter changes that variant only, a changed prompt the traces only, a changed text the table of
texts only, a changed view nothing.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from prunescope.assets.instance.settings import cache_folder
from prunescope.assets.planning.steps import CODE_VERSIONS, MODEL_TABLES, SEARCH_TABLES, STEP_OF_TABLE
from prunescope.pipelines.core import code_versions
from prunescope.pipelines.core.hardware import hardware
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.corpora.text_sources import contents_hash
from prunescope.pipelines.evaluation.retrieval.beir_data import files_of, require_files
from prunescope.pipelines.evaluation.tasks.definition import contents_hash as task_hash
from prunescope.pipelines.evaluation.tasks.definition import harness, runs_code, settings_json
from prunescope.pipelines.models.sources import ModelIdentity, file_hash, identify, locate, source_hash
from prunescope.pipelines.recipes import ExternalRecipe, Recipe, Repair, steps
from prunescope.pipelines.studies import CalibrationSpec, ModelSpec, Study, TextSpec
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec
from prunescope.warehouse.storage.path_names import path_safe
from prunescope.warehouse.storage.provenance import fingerprint

# Longest value of an input that messages show.
_MAX_SHOWN = 40
_HASH = re.compile("[0-9a-f]{64}")
# In messages, inputs whose own names would not say what they are; the others lose `_hash`.
_INPUT_NAMES = {
    "weight_hash": "weights of the model",
    "code": "version of the code",
    "external_hash": "pruned checkpoint",
    "variant": "pruned weights",
    "settings_hash": "`generation` and `measure`",
}


@dataclass(frozen=True)
class DenseModel:
    """A study's model, located on disk.

    Attributes:
        folder: folder with safetensors, config and tokenizer.
        identity: hashes of their contents.
    """

    spec: ModelSpec
    folder: Path
    identity: ModelIdentity


def find_model(study: Study, name: str, progress: Progress) -> DenseModel:
    """Locate and hash a model of the study; fetch or convert it first if the cache lacks it.

    Raises:
        InputError: the study has no such model, or its files are missing, cut short or unsafe.
    """
    spec = study.model(name)
    folder = locate(spec.source, cache_folder(), progress)
    identity = identify(folder, cache_folder())
    if spec.template_arguments:
        hashes = {"files": identity.tokenizer_hash, "template_arguments": spec.template_arguments}
        identity = replace(identity, tokenizer_hash=fingerprint(hashes))
    return DenseModel(spec, folder, identity)


def inputs(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> dict[str, str]:
    """Return all inputs of a partition's rows, by name.

    `recipe` is None for MODEL_TABLES and SEARCH_TABLES, and the variant's for VARIANT_TABLES.
    """
    found = {"weight_hash": identity.weight_hash, "dtype": study.dtype, "code": CODE_VERSIONS[table]}
    tokenizer = {"tokenizer_hash": identity.tokenizer_hash}
    if table == "models":
        return found | tokenizer
    if table in {*MODEL_TABLES, *SEARCH_TABLES}:
        calibration = {"calibration_hash": calibration_hash(study.calibration)}
        return found | tokenizer | calibration | (_search_inputs(study) if table in SEARCH_TABLES else {})
    if recipe is None:
        raise ValueError(f"table {table} has one partition per variant: a recipe is needed")
    if table == "variants":
        study = study.calibrated_for(recipe)
        needed = {name: fingerprint(inputs(name, study, identity, None)) for name in recipe.needs}
        if recipe.is_calibrated:
            needed |= tokenizer | {"calibration_hash": calibration_hash(study.calibration)}
        external = [
            source_hash(step.source, cache_folder()) for step in steps(recipe) if isinstance(step, ExternalRecipe)
        ]
        if external:
            needed |= {"external_hash": external[0], "external_code": code_versions.EXTERNAL}
        if any(isinstance(step, Repair) for step in steps(recipe)):
            needed |= {"repair_code": code_versions.REPAIR}
        return found | {"recipe_hash": recipe.hash} | needed
    found |= {"variant": fingerprint(inputs("variants", study, identity, recipe))}
    step = STEP_OF_TABLE[table].name
    if step == "mask_samples":
        return found
    if step == "speed":
        return found | _speed_inputs(study)
    return found | tokenizer | STUDY_INPUTS[step](study)


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Return in words which inputs of a partition differ, each with both values, hashes by their first digits.

    `found` are the inputs in its provenance, `wanted` those that the study has now, from `inputs`.
    """
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    shown = {name: _INPUT_NAMES.get(name, name.removesuffix("_hash").replace("_", " ")) for name in names}
    return ", ".join(
        f"{text} {_short(found.get(name))}, now {_short(wanted.get(name))}" for name, text in shown.items()
    )


def _short(value: str | None) -> str:
    """Return a value as it is, or enough of a hash or long text to tell it from another."""
    if not value:
        return "none"
    if len(value) <= _MAX_SHOWN:
        return value
    return value[:8] if _HASH.fullmatch(value) else fingerprint({"value": value})[:8]


def expected(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> str:
    """Return the fingerprint that a current partition has in its footer."""
    return fingerprint(inputs(table, study, identity, recipe))


def accepted(table: str, study: Study, identity: ModelIdentity, recipe: Recipe | None) -> Iterator[str]:
    """Yield the fingerprints under which a partition counts as current, the expected one first.

    If the study does not allow programs to run, rows of a run that allowed them are current too: they hold all that the
    study requests, and the results of the programs in addition.
    """
    yield expected(table, study, identity, recipe)
    if STEP_OF_TABLE[table].name == "tasks" and not study.allow_code_execution:
        yield expected(table, study.model_copy(update={"allow_code_execution": True}), identity, recipe)


def search_id(study: Study, identity: ModelIdentity) -> str:
    """Return the id of a study's search on a model, which is the same for all targets and times."""
    found = inputs(SEARCH_TABLES[0], study, identity, None)
    return fingerprint({name: value for name, value in found.items() if name not in {"remove", "minutes"}})[:8]


def variant_file(study: Study, dense: DenseModel, recipe: Recipe) -> str:
    """Return the path of a variant's masks in the warehouse.

    The fingerprint in the file name makes sure that masks of other parameters, left by a killed run, are never used.
    """
    digest = expected("variants", study, dense.identity, recipe)
    return f"_variants/{path_safe(dense.spec.name)}/{path_safe(recipe.name)}/{digest[:16]}.safetensors"


def calibration_hash(spec: CalibrationSpec) -> str:
    """Return the hash of the settings and of the contents of the calibration text."""
    return fingerprint({"settings": spec.hash, "contents": contents_hash(spec.source, "calibration source")})


def _speed_inputs(study: Study) -> dict[str, str]:
    """Return the benchmarks and the machine: times of another machine are measured again on this one."""
    if not study.speed:
        return {"speed_hash": ""}
    libraries = f"torch {version('torch')}, transformers {version('transformers')}"
    machine = {"device": study.device, "hardware": hardware(), "libraries": libraries}
    return {"speed_hash": fingerprint({spec.what: spec.hash for spec in study.speed})} | machine


def _search_inputs(study: Study) -> dict[str, str]:
    """Return the settings of a search, and what its items are drawn from and apart from."""
    if study.search is None:
        return {}
    found = {
        "pruning_code": f"{CODE_VERSIONS['variants']} {CODE_VERSIONS['activation_stats']}",
        "search_hash": study.search.settings_hash,
        "remove": json.dumps(sorted(study.search.remove)),
        "minutes": str(study.search.minutes),
        "prompts_hash": study.prompts_hash,
        "template": study.template or "",  # of the search's own prompts
        "texts_hash": _texts_hash(study.texts),
        "source": contents_hash(study.search.source, "`search.source`"),
        "device": study.device if study.search.unit == "milliseconds" else "",
    }
    task = study.search.objective.removeprefix("task:")
    return found | _task_inputs(study.model_copy(update={"tasks": tuple(t for t in study.tasks if t.name == task)}))


def _texts_hash(texts: Sequence[TextSpec]) -> str:
    """Return the hash of the settings and the contents of all texts of a study."""
    return fingerprint({text.id: [text.hash, contents_hash(text.source, text.what)] for text in texts})


def _task_inputs(study: Study) -> dict[str, str]:
    if not study.tasks:
        return {}
    found = {"harness": harness()}
    for task in study.tasks:
        found |= {f"task {task.name}": settings_json(task), f"task {task.name} hash": task_hash(task)}
    if any(runs_code(task) for task in study.tasks):
        found["code_execution"] = "allowed" if study.allow_code_execution else "not allowed"
    return found


def _retrieval_hash(data_sets: Sequence[RetrievalSpec]) -> str:
    """Return the hash of the settings and of the files of all retrieval data sets of a study."""
    hashes = {}
    for spec in data_sets:
        require_files(spec)
        hashes[spec.name] = [spec.hash, *(file_hash(file, cache_folder()) for file in files_of(spec))]
    return fingerprint(hashes)


# By step, the inputs that the study adds to the variant and the tokenizer.
STUDY_INPUTS: dict[str, Callable[[Study], dict[str, str]]] = {
    "traces": lambda study: {"prompts_hash": study.prompts_hash, "settings_hash": study.settings_hash},
    "sampling": lambda study: (
        {"prompts_hash": study.prompts_hash, "decoding_hash": study.decoding_hash} if study.decoding else {}
    ),
    "texts": lambda study: {"texts_hash": _texts_hash(study.texts)},
    "tasks": _task_inputs,
    "retrieval": lambda study: {"retrieval_hash": _retrieval_hash(study.retrieval)},
}
