"""Document of one answer of one variant, token by token and layer by layer."""

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.explorer.query_cache import Document, QueryCache, columns
from prunescope.pipelines.reporting.explorer.variant_document import by_scope, text_rows

TRAJECTORIES = {"teacher_forced": "forced", "own_text": "own"}
_ANSWER = 400
_TOP = ["token_text", "probability_dense", "probability_pruned"]


def trace(frames: QueryCache, model: str, recipe: str, prompt_id: str) -> Document:
    """Build the document of a text that the variant generated: its row, steps, most likely tokens, layers and options.

    Raises:
        KeyError: the variant has no text for this prompt.
    """
    where = {"model": model, "recipe": recipe, "prompt_id": prompt_id}
    texts = frames.of("texts", **where)
    if texts.is_empty():
        raise KeyError(f"{model}@{recipe} has no text for prompt {prompt_id}")
    whole = {"text_dense": texts["text_dense"][0], "text_pruned": texts["text"][0]}
    options = frames.of("options", **where).drop(where)
    return {
        **text_rows(frames, _ANSWER, **where)[0],
        **{name: prose(text or "") for name, text in whole.items()},
        **{name: columns(steps) for name, steps in _by_trajectory(frames.of("steps", **where)).items()},
        "top": {name: _top(part) for name, part in _by_trajectory(frames.of("top", **where)).items()},
        "layers": by_scope(frames.of("layers", **where).drop("prompt_id"), layers),
        # Values of the question are in every row.
        "options": None if options.is_empty() else columns(options),
    }


def _by_trajectory(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    parts = frame.drop("model", "recipe", "prompt_id").partition_by(
        "trajectory", as_dict=True, maintain_order=True, include_key=False
    )
    return {TRAJECTORIES[str(trajectory)]: part for (trajectory,), part in parts.items()}


def _top(frame: pl.DataFrame) -> list[dict[str, list[list[object]]]]:
    """Return the most likely tokens of each side by step: token, dense and pruned probability."""
    steps: list[dict[str, list[list[object]]]] = [
        {"dense": [], "pruned": []}
        for _ in range(int(frame["step"].max()) + 1)  # type: ignore[arg-type]
    ]
    values = zip(frame["step"], frame["side"].cast(pl.String), *columns(frame.select(_TOP)).values(), strict=True)
    for step, side, *token in values:
        steps[step][side].append(token)
    return steps


def layers(frame: pl.DataFrame) -> Document:
    """Return matrices sublayer × step of the rows of one scope, which are sorted by sublayer and step.

    A step that a sublayer lacks leaves a gap.
    """
    place = ["layer", "sublayer"]
    steps = frame.select(pl.col("step").unique().sort())
    grid = frame.select(place).unique(maintain_order=True).join(steps, how="cross", maintain_order="left_right")
    filled = columns(grid.join(frame, on=[*place, "step"], how="left", maintain_order="left"))
    width = steps.height
    first = {name: values[::width] for name, values in filled.items()}
    of_places = {name: first[name] for name in (*place, "is_changed")}
    matrices = {
        name: [values[start : start + width] for start in range(0, len(values), width)]
        for name, values in filled.items()
        if name not in {*of_places, "step"}
    }
    return {"steps": steps["step"].to_list(), **of_places, **matrices}
