"""Checks of a study against a model before anything is computed, from tokenizer, config and empty modules.

No weights are read, and nothing is predicted: the result is the study on the model in sizes, for `workload`.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from prunescope.pipelines.core.device import resolve_device
from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.retrieval.beir_data import read_collection, texts_of
from prunescope.pipelines.evaluation.retrieval.embedding import require_fits, tokens_of
from prunescope.pipelines.evaluation.speed import check_speed
from prunescope.pipelines.evaluation.tokenization.prompts import tokenize_prompts
from prunescope.pipelines.evaluation.tokenization.texts import tokenize_texts
from prunescope.pipelines.models.load import check_device
from prunescope.pipelines.models.meta_model import MetaModel, shape_of
from prunescope.pipelines.planning.workload import TaskSize, Workload
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens, require_context
from prunescope.pipelines.recipes import DepthRecipe, MaskingRecipe, MatrixRecipe, MixedRecipe, require_python, steps
from prunescope.pipelines.recipes.mixed import part_of, sublayer_of
from prunescope.pipelines.studies import Study
from prunescope.pipelines.studies.evaluation_specs import RetrievalSpec, TaskSpec

# Texts of a data set that are tokenized to estimate the tokens of all.
_SAMPLE = 500


def check_outline(study: Study, outline: MetaModel, tasks: Sequence[TaskSpec] = ()) -> Workload:
    """Refuse a study that a model cannot run, and return the study on this model, in sizes.

    Without a tokenizer only the recipes are checked. Four characters are then a token, texts have as many windows as
    `max_tokens` allows, and tasks and retrieval data sets are left out. `outline` is the model without weights. The
    samples of the `tasks`, which are checked and counted, may be downloaded.

    Raises:
        InputError: names the prompt, text, key or recipe, and the fix.
    """
    _check_recipes(study, outline)
    tokenizer, context = outline.tokenizer, outline.context_length
    workers = 1 if resolve_device(study.device).startswith("cuda") else torch.get_num_threads()
    if tokenizer is None:
        characters = [sum(len(turn["content"]) for turn in prompt.messages) for prompt in study.prompts]
        prompts = [len(prompt.ids) or 1 + count // 4 for prompt, count in zip(study.prompts, characters, strict=True)]
        windows = [text.max_tokens // text.scored for text in study.texts]
        return Workload(study, shape_of(outline), prompts, windows, workers)
    check_device(study.device, study.memory)
    needs_head = [key for key in ("prompts", "texts", "tasks", "speed", "search") if getattr(study, key)]
    if outline.head is None and needs_head:
        raise InputError(
            f"study {study.name}: {type(outline.module).__name__} has no LM head; `{needs_head[0]}` cannot be measured "
            "on it, `retrieval` can"
        )
    prompts = [len(each.ids) for each in tokenize_prompts(study, tokenizer, context)]
    windows = [len(each.windows) for each in tokenize_texts(study, tokenizer, context)]
    _check_lengths(study, outline)
    retrieval = [_retrieval_size(data_set, tokenizer) for data_set in study.retrieval]
    sizes = list[TaskSize]()
    if tasks:  # to import lm-eval takes seconds
        from prunescope.pipelines.evaluation.tasks.loading import load_tasks
        from prunescope.pipelines.evaluation.tasks.sandbox_client import refusal
        from prunescope.pipelines.planning.task_workload import task_sizes

        loaded = load_tasks(tasks)
        if study.allow_code_execution and any(task.runs_code for task in loaded) and (reason := refusal()):
            raise InputError(f"--allow-code-execution: {reason}; leave it out to keep the programs unscored")
        sizes = task_sizes(loaded, tokenizer, context)
    return Workload(study, shape_of(outline), prompts, windows, workers, sizes, retrieval)


def _check_lengths(study: Study, outline: MetaModel) -> None:
    """Refuse timings, calibration windows, searches and data sets over the model's context."""
    context = outline.context_length
    check_speed(study, context)
    recipe_specs = {f"recipe {recipe.name}: `calibration.length`": recipe.calibration for recipe in study.recipes}
    for key, spec in {"`calibration.length`": study.calibration, **recipe_specs}.items():
        if spec is not None:
            require_context(spec, context, key)
            calibration_tokens(outline.tokenizer, spec)
    if study.search is not None and study.search.length > context:
        raise InputError(f"`search.length` {study.search.length} is over the model's {context} tokens; lower it")
    for data_set in study.retrieval:
        require_fits(data_set, context)


def _retrieval_size(spec: RetrievalSpec, tokenizer: Any) -> tuple[int, int]:  # noqa: ANN401 (any tokenizer)
    """Read and check a data set; return the number of its texts and, from some of them, of their tokens."""
    texts = texts_of(spec, read_collection(spec))
    sample = texts[:: len(texts) // _SAMPLE + 1]
    tokens = tokens_of(sample, tokenizer, spec.max_length, "mean" if spec.pooling == "mean" else "last")
    return len(texts), round(sum(map(len, tokens)) / len(sample) * len(texts))


def unmatched(study: Study, outline: MetaModel) -> list[str]:
    """Return a message for each matrix that a recipe names and the model lacks, as far as the outline shows.

    A run refuses such a recipe when it comes to it.
    """
    names = outline.matrices
    ends, messages = {part_of(name) for name in names}, list[str]()
    for recipe in (step for whole in study.recipes for step in steps(whole)):
        if isinstance(recipe, MatrixRecipe):
            messages += [
                f"recipe {recipe.name}: `modules` {pattern!r} matches no matrix"
                for pattern in recipe.modules
                if pattern not in {"attn", "mlp"} and not any(fnmatchcase(name, pattern) for name in names)
            ]
        elif isinstance(recipe, MixedRecipe):
            messages += [
                f"recipe {recipe.name}: the model has no {place}"
                for place in recipe.treatments
                if place != sublayer_of(place) and place.split(".")[2] not in ends
            ]
    return messages


def _check_recipes(study: Study, outline: MetaModel) -> None:
    searched = study.search.recipes if study.search else ()
    require_python((*study.recipes, *searched), is_allowed=study.allow_python)
    layers = int(outline.config.num_hidden_layers)
    inputs = sorted({inputs for _, inputs in outline.matrices.values()})
    for recipe in (step for whole in study.recipes for step in steps(whole)):
        if isinstance(recipe, DepthRecipe):
            recipe.units(layers)
        if isinstance(recipe, MixedRecipe):
            recipe.require_sublayers(layers)
            if recipe.drops is not None:
                recipe.drops.units(layers)
        if isinstance(recipe, MaskingRecipe) and isinstance(recipe.ratios, tuple) and len(recipe.ratios) != layers:
            raise InputError(f"recipe {recipe.name}: {len(recipe.ratios)} `ratios`, but the model has {layers} layers")
        # A recipe with `modules` is checked later, when the layers are known and its matrices with them.
        if isinstance(recipe, MaskingRecipe) and recipe.block is not None and not recipe.modules:
            odd = next((size for size in inputs if size % recipe.block), None)
            if odd is not None:
                raise InputError(f"recipe {recipe.name}: a module has {odd} inputs, not a multiple of {recipe.block}")
