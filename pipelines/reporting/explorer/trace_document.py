"""Document `trace/<n>/<m>`: one answer of one variant, token by token and layer by layer."""

from typing import cast

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import label, prose, visible
from prunescope.pipelines.reporting.explorer.document_types import Layers, Options, Steps, TopStep, Trace
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache, number, numbers, sublayer_name, text_outcome

# Maximum display width of a token. Most have a few characters, but a hostile vocabulary may have very long ones.
TOKEN_COLUMNS = 60
TRAJECTORIES = {"teacher_forced": "forced", "own_text": "own"}


def trace(frames: QueryCache, model: str, recipe: str, prompt_id: str) -> Trace:
    """Build the document of a text that the variant generated.

    Raises:
        KeyError: the variant has no text for this prompt.
    """
    where = {"model": model, "recipe": recipe, "prompt_id": prompt_id}
    texts = frames.of("texts", **where)
    if texts.is_empty():
        raise KeyError(f"{model}@{recipe} has no text for prompt {prompt_id}")
    text = texts.row(0, named=True)
    parts = frames.of("parts", **where)
    document: dict[str, object] = {
        **text_outcome(text, parts.row(0, named=True) if parts.height else {}, 400),
        "text_dense": prose(text["text_dense"] or ""),
        "text_pruned": prose(text["text"] or ""),
        "answer_end_step": text["answer_end_step"],
        "answer_end_step_dense": text["answer_end_step_dense"],
        "top": _top(frames.of("top", **where)),
        "layers": _layers(frames.of("layers", **where)),
        "options": _options(frames.of("options", **where)),
    }
    for trajectory, part in _by(frames.of("steps", **where), "trajectory").items():
        document[TRAJECTORIES[trajectory]] = _steps(part)
    return cast("Trace", document)


def _by(frame: pl.DataFrame, column: str) -> dict[str, pl.DataFrame]:
    parts = frame.partition_by(column, as_dict=True, maintain_order=True)
    return {str(value): part for (value,), part in parts.items()}


def _steps(frame: pl.DataFrame) -> Steps:
    return {
        "step": frame["step"].to_list(),
        "token_dense": _tokens(frame["token_text_dense"]),
        "token_pruned": _tokens(frame["token_text_pruned"]),
        "is_same": frame["is_same_token"].to_list(),
        "kl": numbers(frame["kl_dense_pruned_nats"]),
        "entropy_dense": numbers(frame["entropy_dense_nats"]),
        "entropy_pruned": numbers(frame["entropy_pruned_nats"]),
        "margin_dense": numbers(frame["margin_dense"]),
        "margin_pruned": numbers(frame["margin_pruned"]),
        "rank_of_dense_top1": frame["rank_of_dense_top1"].to_list(),
        "h": numbers(frame["one_minus_cos_h"]),
        "z": numbers(frame["one_minus_cos_z"]),
        "p": numbers(frame["one_minus_cos_p"]),
    }


def _tokens(column: pl.Series) -> list[str]:
    return [visible(token or "", TOKEN_COLUMNS) for token in column.to_list()]


def _top(frame: pl.DataFrame) -> dict[str, list[TopStep]]:
    """Return the most likely tokens by trajectory, parallel to the lists of `_steps`."""
    top: dict[str, list[TopStep]] = {}
    for trajectory, part in _by(frame, "trajectory").items():
        steps: dict[int, TopStep] = {}
        for step, side, token, dense, pruned in zip(
            part["step"].to_list(),
            part["side"].cast(pl.String).to_list(),
            _tokens(part["token_text"]),
            numbers(part["probability_dense"]),
            numbers(part["probability_pruned"]),
            strict=True,
        ):
            entry = steps.setdefault(step, {"dense": [], "pruned": []})
            (entry["dense"] if side == "dense" else entry["pruned"]).append([token, dense, pruned])
        top[TRAJECTORIES[trajectory]] = [steps.get(step, {"dense": [], "pruned": []}) for step in range(max(steps) + 1)]
    return top


def _layers(frame: pl.DataFrame) -> dict[str, Layers]:
    """Return matrices sublayer × step by scope; the rows are sorted by sublayer and step."""
    scopes: dict[str, Layers] = {}
    for scope, part in _by(frame, "scope").items():
        steps = part["step"].unique().sort().to_list()
        # A sublayer without one of the steps would shift all rows after it.
        grid = (
            part.select("layer", "sublayer")
            .unique(maintain_order=True)
            .join(part.select(pl.col("step").unique().sort()), how="cross", maintain_order="left_right")
        )
        filled = grid.join(part, on=["layer", "sublayer", "step"], how="left", maintain_order="left")
        width = len(steps)

        def matrix(values: list[object], width: int = width) -> list[list[object]]:
            return [values[start : start + width] for start in range(0, len(values), width)]

        first = filled.gather_every(width)
        scopes[scope] = cast(
            "Layers",
            {
                "places": [sublayer_name(*names) for names in first.select("layer", "sublayer").iter_rows()],
                "is_changed": first["is_changed"].to_list(),
                "steps": steps,
                **{space: matrix(list(numbers(filled[f"one_minus_cos_{space}"]))) for space in "hzp"},
                "kl": matrix(list(numbers(filled["kl_dense_pruned_nats"]))),
                "is_top1_same": matrix(filled["is_top1_same"].to_list()),
            },
        )
    return scopes


def _options(frame: pl.DataFrame) -> Options | None:
    if frame.is_empty():
        return None
    first = frame.row(0, named=True)
    return {
        "labels": [label(option) for option in frame["option"].to_list()],
        "p_dense": numbers(frame["p_options_dense"]),
        "p_pruned": numbers(frame["p_options_pruned"]),
        "full_dense": numbers(frame["p_full_dense"]),
        "full_pruned": numbers(frame["p_full_pruned"]),
        "rank_dense": frame["rank_dense"].to_list(),
        "rank_pruned": frame["rank_pruned"].to_list(),
        "mass_dense": number(first["mass_dense"], 4),
        "mass_pruned": number(first["mass_pruned"], 4),
        "kl_options": number(first["kl_options_dense_pruned_nats"], 4),
        "kl_vocabulary": number(first["kl_dense_pruned_nats"], 4),
        "gold": None if first["gold"] is None else label(first["gold"]),
        "is_argmax_same": first["is_argmax_same"],
    }
