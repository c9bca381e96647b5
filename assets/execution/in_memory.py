"""Measurement of two transformers models in memory: what a run computes for a checkpoint, without files of either.

The public function is `prunescope.assets.api.measure`.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from prunescope.assets.execution.compute import compute
from prunescope.assets.execution.model_session import ModelSession
from prunescope.assets.execution.partition_context import PartitionContext
from prunescope.assets.execution.task import ModelTask, StepFailed
from prunescope.assets.planning.fingerprints import DenseModel
from prunescope.assets.planning.steps import partition_tables, steps_writing
from prunescope.assets.planning.work_plan import StudyRequest
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.core.progress import Progress
from prunescope.pipelines.models.memory_models import as_loaded, identify_in_memory
from prunescope.pipelines.models.sources import IN_MEMORY
from prunescope.pipelines.studies import study_of
from prunescope.warehouse.storage.partition_store import Store

Changed = nn.Module | Callable[[nn.Module], nn.Module | None]


def measure_pair(
    dense: nn.Module,
    changed: Changed,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer
    names: tuple[str, str],
    settings: dict[str, object],
    root: str,
    progress: Progress,
) -> None:
    """Write the tables of a dense model, of its noise floors and of a changed copy of it to a warehouse.

    `names` are the names of both models in the tables, and `settings` the keys of a study without models and recipes.
    Other arguments as in `prunescope.assets.api.measure`.

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
    identities = [identify_in_memory(model, tokenizer) for model in (dense, changed)]
    # Models with equal weights may still differ in their code, so their sources differ too.
    sources = [
        f"{IN_MEMORY}{part}-{identity.weight_hash[:16]}"
        for part, identity in zip(("dense", "changed"), identities, strict=True)
    ]
    own = {
        "name": "measure",
        "models": [{"name": names[0], "source": sources[0]}],
        "recipes": ["dense", {"name": names[1], "method": "external", "source": sources[1]}],
        "dtype": str(dense.dtype).removeprefix("torch."),
        "device": str(dense.device),
    }
    if known := own.keys() & settings.keys():
        raise InputError(f"`{min(known)}` follows from the models; leave it out")
    if unknown := {"search", "memory"} & settings.keys():
        raise InputError(f"`{min(unknown)}` is for models on disk; write a study (`prunescope init`)")
    study = study_of(own | settings, Path("measure"))
    with as_loaded(dense), as_loaded(changed):
        located = DenseModel(study.models[0], Path(study.models[0].name), identities[0])
        loaded = {source: (model, tokenizer) for source, model in zip(sources, (dense, changed), strict=True)}
        session = ModelSession(progress, loaded)
        # Without the calibration, which no recipe here reads.
        steps = [
            (recipe.name, step.name)
            for recipe in study.recipes
            for step in steps_writing(partition_tables(study, recipe))
        ]
        task = ModelTask(StudyRequest(study.name), root, study.models[0].name, ((None, "models"), *steps))
        try:
            for event in compute(task, session, PartitionContext(study, located, None, Store(root))):
                if isinstance(event, StepFailed):
                    raise event.error
        finally:
            session.release()
