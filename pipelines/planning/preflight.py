"""Refuses what cannot work before anything is computed: prompts, texts, data sets, calibration, recipes, device.

Tokenizer, config and empty modules are enough; no weights are read.
"""

from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn
from transformers.pytorch_utils import Conv1D

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.retrieval.embedding import require_fits
from prunescope.pipelines.evaluation.speed import check_speed
from prunescope.pipelines.evaluation.tokenization.prompts import TokenizedPrompt, tokenize_prompts
from prunescope.pipelines.evaluation.tokenization.texts import TokenizedText, tokenize_texts
from prunescope.pipelines.models.load import check_device
from prunescope.pipelines.models.meta_model import MetaModel, load_meta_model
from prunescope.pipelines.planning.retrieval_workload import RetrievalSize, size_of
from prunescope.pipelines.pruning.calibration.statistics import calibration_tokens, require_context
from prunescope.pipelines.recipes import DepthRecipe, MaskingRecipe, MatrixRecipe, steps
from prunescope.pipelines.studies import Study


def check_study(study: Study, folder: Path) -> None:
    """Refuses a study that one of its models cannot run.

    Args:
        study: the study.
        folder: a model's folder of safetensors.

    Raises:
        InputError: names the prompt, text, key or recipe, and the fix.
    """
    outline = load_meta_model(folder)
    check_outline(study, outline)
    # Their samples may have to be fetched, which planning leaves to the run.
    if study.tasks:
        from prunescope.pipelines.evaluation.tasks.loading import load_tasks
        from prunescope.pipelines.planning.task_workload import check_lengths

        tasks = load_tasks(study.tasks)
        check_lengths(tasks, outline.context_length)
        if study.allow_code_execution and any(each.runs_code for each in tasks):
            _require_a_jail()


def check_outline(
    study: Study, outline: MetaModel
) -> tuple[list[TokenizedPrompt], list[TokenizedText], list[RetrievalSize]]:
    """The same of a model whose outline is known; the study's prompts and texts in its tokens, and what is embedded.

    Raises:
        InputError: names the prompt, key or recipe, and the fix.
    """
    check_device(study.device, study.memory)
    tokenizer, context = outline.tokenizer, outline.context_length
    headed = [key for key in ("prompts", "texts", "tasks", "speed") if getattr(study, key)]
    if outline.head is None and headed:
        raise InputError(
            f"study {study.name}: {type(outline.module).__name__} has no LM head; `{headed[0]}` cannot be measured on "
            "it, `retrieval` can"
        )
    prompts = tokenize_prompts(study, tokenizer, context)
    texts = tokenize_texts(study, tokenizer, context)
    check_speed(study, context)
    own = {f"recipe {recipe.name}: `calibration.length`": recipe.calibration for recipe in study.recipes}
    for key, spec in {"`calibration.length`": study.calibration, **own}.items():
        if spec is not None:
            require_context(spec, context, key)
            calibration_tokens(tokenizer, spec)
    _check_recipes(study, outline)
    for each in study.retrieval:
        require_fits(each, context)
    return prompts, texts, [size_of(each, tokenizer) for each in study.retrieval]


def unmatched(study: Study, outline: MetaModel) -> list[str]:
    """Recipes whose `modules` match no matrix, as far as empty modules show; a run refuses each when its turn comes."""
    names = [name for name, module in outline.module.named_modules() if isinstance(module, (nn.Linear, Conv1D))] + [
        # Experts may lie in one parameter.
        f"{name}[{index}]"
        for name, parameter in outline.module.named_parameters()
        if parameter.dim() == 3
        for index in range(len(parameter))
    ]
    return [
        f"recipe {recipe.name}: `modules` {pattern!r} matches no matrix"
        for whole in study.recipes
        for recipe in steps(whole)
        if isinstance(recipe, MatrixRecipe)
        for pattern in recipe.modules
        if pattern not in {"attn", "mlp"} and not any(fnmatchcase(name, pattern) for name in names)
    ]


def _require_a_jail() -> None:
    """Refuses to run programs on a machine that cannot shut them in."""
    from prunescope.pipelines.evaluation.tasks.sandbox_client import refusal

    if reason := refusal():
        raise InputError(f"--allow-code-execution: {reason}; leave it out to keep the programs unjudged")


def _check_recipes(study: Study, outline: MetaModel) -> None:
    layers = int(outline.config.num_hidden_layers)
    inputs = {
        module.in_features if isinstance(module, nn.Linear) else module.weight.shape[0]
        for module in outline.module.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not outline.head
    }
    for recipe in (step for whole in study.recipes for step in steps(whole)):
        if isinstance(recipe, DepthRecipe):
            recipe.units(layers)
        if isinstance(recipe, MaskingRecipe) and isinstance(recipe.ratios, tuple) and len(recipe.ratios) != layers:
            raise InputError(f"recipe {recipe.name}: {len(recipe.ratios)} `ratios`, but the model has {layers} layers")
        # Which matrices `modules` matches is known when the layers have been found.
        if isinstance(recipe, MaskingRecipe) and recipe.block is not None and not recipe.modules:
            uneven = sorted(size for size in inputs if size % recipe.block)
            if uneven:
                raise InputError(
                    f"recipe {recipe.name}: a module has {uneven[0]} inputs, not a multiple of {recipe.block}"
                )
