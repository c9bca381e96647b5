"""Measurement of two transformers models in memory: what a run computes for a checkpoint, without files of either.

The public function is `prunescope.assets.api.measure`.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from torch import nn

from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.task import ModelTask, StepFailed
from prunescope.assets.planning.fingerprints import DenseModel
from prunescope.assets.planning.steps import STEP_OF_TABLE, partition_tables
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.models.sources import IN_MEMORY, ModelIdentity
from prunescope.pipelines.studies import Study, study_of
from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES

Changed = nn.Module | Callable[[nn.Module], nn.Module | None]


def measure_pair(
    dense: nn.Module,
    changed: Changed,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer
    settings: dict[str, object],
    root: str,
    progress: Progress,
) -> None:
    """Write the tables of a dense model, of its noise floors and of a changed copy of it to a warehouse.

    `settings` are the keys of a study without models and recipes, and `model` and `name`, the names of both models in
    the tables. Other arguments as in `prunescope.assets.api.measure`.

    Raises:
        InputError: a setting is wrong, the structure cannot be verified, or the models do not belong together.
        ComputationError: activations are NaN or infinite.
    """
    if callable(changed) and not isinstance(changed, nn.Module):
        copied = copy.deepcopy(dense)
        returned = changed(copied)
        changed = copied if returned is None else returned
    if not isinstance(changed, nn.Module):
        raise InputError("`changed` must be a model, or a function that returns one or None")
    for part in ("dtype", "device"):
        found = {str(getattr(parameter, part)) for model in (dense, changed) for parameter in model.parameters()}
        if len(found) > 1:
            raise InputError(
                f"the models' parameters have several {part}s ({', '.join(sorted(found))}); move them to one"
            )
    hashes = [weights_hash(model) for model in (dense, changed)]
    # Models with equal weights may still differ in their code, so their sources differ too.
    sources = [f"{IN_MEMORY}{part}-{digest[:16]}" for part, digest in zip(("dense", "changed"), hashes, strict=True)]
    names = {key: settings.pop(key) for key in ("model", "name")}
    own = {
        "name": "measure",
        "models": [{"name": names["model"], "source": sources[0]}],
        "recipes": ["dense", {"name": names["name"], "method": "external", "source": sources[1]}],
        "dtype": str(dense.dtype).removeprefix("torch."),
        "device": str(dense.device),
    }
    if known := own.keys() & settings.keys():
        raise InputError(f"`{min(known)}` follows from the models; leave it out")
    if unknown := {"search", "memory"} & settings.keys():
        raise InputError(f"`{min(unknown)}` is for models on disk; write a study (`prunescope init`)")
    study = study_of(own | settings, Path("measure"))
    with _as_loaded(dense), _as_loaded(changed):
        located = DenseModel(study.models[0], Path(study.models[0].name), _identity(dense, tokenizer, hashes[0]))
        loaded = {source: (model, tokenizer) for source, model in zip(sources, (dense, changed), strict=True)}
        session = ModelSession(progress, loaded)
        task = ModelTask(StudyRequest(study.name), root, study.models[0].name, tuple(_steps(study)))
        for event in compute(task, session, PartitionContext(study, located, None, Store(root))):
            if isinstance(event, StepFailed):
                raise event.error


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 of a model's config, and of the names and values of its parameters and buffers."""
    joint = hashlib.sha256(cast(Any, model).config.to_json_string().encode())
    for name, tensor in model.state_dict().items():
        joint.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        joint.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return joint.hexdigest()


def _identity(model: nn.Module, tokenizer: Any, digest: str) -> ModelIdentity:  # noqa: ANN401
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    described = [sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer.chat_template]
    return ModelIdentity(digest, hashlib.sha256(repr(described).encode()).hexdigest(), size)


def _steps(study: Study) -> Iterator[tuple[str | None, str]]:
    """Yield the steps of the model, but for the calibration, which no recipe here reads, and of its variants."""
    yield None, "models"
    for recipe in study.recipes:
        tables = partition_tables(study, recipe)
        yield from ((recipe.name, step) for step in dict.fromkeys(STEP_OF_TABLE[table].name for table in tables))


@contextmanager
def _as_loaded(model: nn.Module) -> Iterator[None]:
    """Put a model into the state in which `load_model` returns one, and back."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
        experts = getattr(cast(Any, model).config, "_experts_implementation", None)
        if experts not in {None, "eager"}:
            stack.callback(cast(Any, model).set_experts_implementation, experts)
            cast(Any, model).set_experts_implementation("eager")
        model.eval().requires_grad_(False)
        yield


def save(origin: Store, target: Store) -> None:
    """Copy all partitions of a warehouse into another one, where those of equal inputs are left alone.

    Raises:
        WarehouseError: the other warehouse has a partition of one of these names from other inputs; nothing is copied.
    """
    missing = []
    for table in TABLES.values():
        for partition, footer in origin.footers(table):
            found = target.provenance(table, partition.model, partition.recipe)
            if found is not None and found.fingerprint != footer.provenance.fingerprint:
                name = f"{partition.model}@{partition.recipe}" if partition.recipe else partition.model
                raise WarehouseError(
                    f"the warehouse {target.root} has another {name}; measure again with another `model` or `name`"
                )
            if found is None:
                missing.append((table, partition, footer.provenance))
    for table, partition, provenance in missing:
        rows = pl.DataFrame(origin.read(table, partition.model, partition.recipe))
        target.write(table, rows, provenance, partition.model, partition.recipe)
