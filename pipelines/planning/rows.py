"""Rows that a study's partitions will have, predicted from sizes alone."""

from prunescope.pipelines.planning.cost_model import RowCount
from prunescope.pipelines.planning.workload import Workload
from prunescope.pipelines.pruning.sampled_masks import MAX_SAMPLED
from prunescope.pipelines.recipes import LayerwiseRecipe, Recipe, changes_matrices, steps

# Rows of `task_scores` per shipped task.
_METRICS = {"letter": 1, "full_text": 3, "greedy": 3, "rolling": 3}


def rows_of(load: Workload, recipe: Recipe | None) -> list[RowCount]:
    """Return the rows of a variant in the tables of variants, or without a recipe of the model in those of models."""
    if recipe is not None:
        return _variant_rows(load, recipe)
    return [
        RowCount("models", 1),
        RowCount("activation_stats", load.shape.modules, listed=load.shape.inputs),
        RowCount("block_influence", 3 * load.shape.layers),
    ]


def _variant_rows(load: Workload, recipe: Recipe) -> list[RowCount]:
    shape, measure, temperatures = load.shape, load.study.measure, len(load.study.measure.temperatures)
    is_dense = recipe.method == "dense"
    # Rows per sublayer and scope.
    rows = len(measure.lenses) * temperatures * load.positions
    shifted = sum(load.shifted_sublayers(recipe, scope) for scope in measure.scopes)
    transitions = rows * load.sublayers * len(measure.scopes)
    # The dense model's own text has no fork.
    own = len(measure.trajectories) - (is_dense and "fork" in measure.trajectories)
    decoded = load.text_steps * own * temperatures
    listed = load.text_steps * len({"teacher_forced", "own_text"} & set(measure.trajectories))
    # Kept are the stream of the dense model, and of a variant the shifts after shifted sublayers.
    states = load.positions * (load.sublayers if is_dense else shifted)
    choices = sum(bool(prompt.options) for prompt in load.study.prompts)
    masks = any(isinstance(step, LayerwiseRecipe) and changes_matrices(step) for step in steps(recipe))
    sampled = min(shape.prunable, shape.modules * MAX_SAMPLED) // 8
    return [
        RowCount("variants", 1),
        RowCount("mask_samples", shape.modules, packed=sampled if masks else 0),
        RowCount("layer_transitions", transitions, unmoved=transitions - rows * shifted),
        RowCount("decoding_steps", decoded, unmoved=decoded if is_dense else 0),
        RowCount("top_tokens", listed * 2 * min(measure.top_k, shape.vocabulary)),
        RowCount("option_subspace", choices * temperatures),
        RowCount("generations", len(load.prompts) if measure.writes else 0),
        RowCount("sampled_generations", load.sampled_texts),
        RowCount("sampled_steps", 2 * load.sampled_texts * load.study.generation.new_tokens),
        *([RowCount("hidden_states", states, listed=states * shape.width)] if measure.keep_states else []),
        RowCount("text_tokens", load.scored_tokens, unmoved=load.scored_tokens if is_dense else 0),
        *_evaluation_rows(load, recipe),
    ]


def _evaluation_rows(load: Workload, recipe: Recipe) -> list[RowCount]:
    """Return the rows of a variant in the tables of tasks, retrieval and speed."""
    options = sum(task.samples * task.options_per_sample for task in load.tasks)
    written = round(sum(task.samples * task.answer_tokens for task in load.tasks))
    stored = sum(size.texts for size in load.retrieval if size.keeps_embeddings)
    return [
        RowCount("task_scores", sum(_METRICS[task.scoring] for task in load.tasks)),
        RowCount("task_samples", sum(task.samples for task in load.tasks), listed=round(2 * options) + written),
        RowCount("retrieval_scores", 4 * len(load.retrieval)),
        RowCount("retrieval_queries", 4 * sum(size.queries for size in load.retrieval)),
        # A float16 takes half of a listed float32.
        RowCount("retrieval_embeddings", stored, listed=stored * load.shape.width // 2),
        RowCount("speed", len(load.study.speed) if recipe.method != "noise" else 0),
    ]
