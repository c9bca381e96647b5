"""Rows that a study's partitions will have, predicted from sizes alone."""

from prunescope.pipelines.planning.workload import Workload
from prunescope.pipelines.pruning.sampled_masks import MAX_SAMPLED
from prunescope.pipelines.recipes import LayerwiseRecipe, Recipe, changes_matrices, steps

# Rows of `task_scores` per shipped task.
_METRICS = {"letter": 1, "full_text": 3, "greedy": 3, "rolling": 3}
# Rows of a table; how many of them have a shift of exactly zero; numbers in its lists; bytes of masks.
Counts = tuple[int, ...]


def rows_of(load: Workload, recipe: Recipe | None) -> dict[str, Counts]:
    """Return the rows of a variant by table, or without a recipe those of the model; `expected_bytes` takes them."""
    if recipe is None:
        shape = load.shape
        return {
            "models": (1,),
            "activation_stats": (shape.modules, 0, shape.inputs),
            "block_influence": (3 * shape.layers,),
        }
    shape, study, measure = load.shape, load.study, load.study.measure
    is_dense, temperatures = recipe.method == "dense", len(measure.temperatures)
    # Rows per sublayer and scope.
    rows = len(measure.lenses) * temperatures * load.positions
    shifted = sum(load.shifted_sublayers(recipe, scope) for scope in measure.scopes)
    transitions = rows * load.sublayers * len(measure.scopes)
    # The dense model's own text has no fork.
    own = len(measure.trajectories) - (is_dense and "fork" in measure.trajectories)
    decoded = load.text_steps * own * temperatures
    # Kept are the stream of the dense model, and of a variant the shifts after shifted sublayers.
    states = load.positions * (load.sublayers if is_dense else shifted) * measure.keep_states
    masks = any(isinstance(step, LayerwiseRecipe) and changes_matrices(step) for step in steps(recipe))
    sampled = min(shape.prunable, shape.modules * MAX_SAMPLED) // 8
    options = round(2 * sum(task.samples * task.options_per_sample for task in load.tasks))
    written = round(sum(task.samples * task.answer_tokens for task in load.tasks))
    embedded = sum(size.texts for size in load.retrieval if size.keeps_embeddings)
    return {
        "variants": (1,),
        "mask_samples": (shape.modules, 0, 0, sampled * masks),
        "layer_transitions": (transitions, transitions - rows * shifted),
        "decoding_steps": (decoded, decoded * is_dense),
        "top_tokens": (load.top_steps * 2 * min(measure.top_k, shape.vocabulary),),
        "option_subspace": (sum(bool(prompt.options) for prompt in study.prompts) * temperatures,),
        "generations": (len(load.prompts) * measure.writes,),
        "sampled_generations": (load.sampled_texts,),
        "sampled_steps": (2 * load.sampled_texts * study.generation.new_tokens,),
        "hidden_states": (states, 0, states * shape.width),
        "text_tokens": (load.scored_tokens, load.scored_tokens * is_dense),
        "task_scores": (sum(_METRICS[task.scoring] for task in load.tasks),),
        "task_samples": (sum(task.samples for task in load.tasks), 0, options + written),
        "retrieval_scores": (4 * len(load.retrieval),),
        "retrieval_queries": (4 * sum(size.queries for size in load.retrieval),),
        # A float16 takes half of a listed float32.
        "retrieval_embeddings": (embedded, 0, embedded * shape.width // 2),
        "speed": (len(study.speed) * (recipe.method != "noise"),),
    }
