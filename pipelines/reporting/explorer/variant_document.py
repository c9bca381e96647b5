"""Documents of one variant, of one prompt (the texts of all variants to it), and of one text, token by token."""

import json
from collections.abc import Sequence
from os.path import commonprefix

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.explorer.ordering import DisplayOrder
from prunescope.pipelines.reporting.explorer.queries import PROMPT, STATEMENTS, VARIANT
from prunescope.pipelines.reporting.explorer.query_cache import Document, QueryCache, columns, parts, rows, table

# Statements whose rows are tables of a variant's page, and the columns that the page shows elsewhere or not at all.
TABLES = ("carriers", "losses", "scores", "comparisons", "flips", "perplexity", "retrieval", "speed")
_ELSEWHERE = (*VARIANT, "value_low", "value_high", "ppl_low", "ppl_high", "machine")
MAX_FLIPS = 40
# Maximum number of characters of an answer in a list of texts, and of a text on its own.
_ANSWER, _WHOLE_ANSWER = 200, 400
TRAJECTORIES = {"teacher_forced": "forced", "own_text": "own"}
_TOP = ["token_text", "probability_dense", "probability_pruned"]


def variant(frames: QueryCache, model: str, recipe: str, order: DisplayOrder) -> Document:
    """Build the document of a pruned or the dense variant."""
    where = {"model": model, "recipe": recipe}
    places = dict(frames.of("written", **where).select("prompt_id", "place_in_order").iter_rows())
    texts = text_rows(frames, _ANSWER, **where)

    def place(text: Document) -> tuple[object, ...]:
        return (places.get(text["prompt_id"], 0), *order.of_prompt(model, text["prompt_id"]))

    return {
        "facts": [
            {"name": name, "text": _fact(value)}
            for row in frames.of("facts", **where).drop("model", "recipe").iter_rows(named=True)
            for name, value in row.items()
            if value is not None and value != []
        ],
        # Those that break first come first, those of the dense model as in the index.
        "prompts": sorted(texts, key=place),
        "layers": {
            scope: columns(part)
            for scope, part in parts(frames.of("layer_means", **where).drop(VARIANT), "scope").items()
        },
        "tables": [
            table(
                _title(key, frame.height),
                frame.drop(_ELSEWHERE, strict=False)[: MAX_FLIPS if key == "flips" else None],
                key,
            )
            for key in TABLES
            if not (frame := frames.of(key, **where)).is_empty()
        ],
    }


def prompt(frames: QueryCache, prompt_id: str, variants: Sequence[tuple[str, str]]) -> Document:
    """Build the document of the texts to one prompt by the variants of a model, in their order.

    Raises:
        KeyError: there is no such text.
    """
    where = {"model": variants[0][0] if variants else "", "prompt_id": prompt_id}
    recipes = frames.of("texts", **where)["recipe"].cast(pl.String).to_list()
    texts = dict(zip(recipes, text_rows(frames, _ANSWER, **where), strict=True))
    if not texts:
        raise KeyError(prompt_id)
    return {"texts": [texts[pair[1]] | {"variant": "@".join(pair)} for pair in variants if pair[1] in texts]}


def text_rows(frames: QueryCache, width: int, **where: str) -> list[Document]:
    """Return texts with their divergence and the sublayers from which on they differ.

    Both texts are split at the first character that differs: `text_same`, then `text_dense` and `text_pruned`.

    Args:
        frames: results of the statements.
        width: maximum number of characters of an answer.
        where: the filter of the rows.
    """
    keys = pl.col(PROMPT).cast(pl.String)
    frame, *others = (frames.of(key, **where).with_columns(keys) for key in ("texts", "text_means", "parts"))
    for other in others:
        frame = frame.join(other.drop("step", strict=False), on=PROMPT, how="left", maintain_order="left")
    found = []
    texts = zip(frame["text_dense"].fill_null(""), frame["text"].fill_null(""), strict=True)
    shown = rows(frame.drop("model", "recipe", "text", "text_dense"), 6, width)
    for (dense, pruned), row in zip(texts, shown, strict=True):
        same = len(commonprefix([dense, pruned]))  # noqa: RUF071 - characters are intended
        split = {"text_same": dense[:same], "text_dense": dense[same:], "text_pruned": pruned[same:]}
        found.append(row | {name: prose(text) for name, text in split.items()})
    return found


def _fact(value: object) -> str:
    """Return a value as text: JSON on several lines, all digits of an integer, six of a fraction."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.dumps(json.loads(value), ensure_ascii=False, indent=2)
    elif isinstance(value, int | float):
        value = f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    return prose(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _title(key: str, count: int) -> str:
    is_cut = key == "flips" and count > MAX_FLIPS
    return STATEMENTS[key].title + (f" (the first {MAX_FLIPS} of {count})" if is_cut else "")


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
    steps, top, by_layer, options = (
        frames.of(key, **where).drop(where) for key in ("steps", "top", "layers", "options")
    )
    return {
        **text_rows(frames, _WHOLE_ANSWER, **where)[0],
        **{name: prose(text or "") for name, text in whole.items()},
        **{TRAJECTORIES[name]: columns(part) for name, part in parts(steps, "trajectory").items()},
        "top": {TRAJECTORIES[name]: _top(part) for name, part in parts(top, "trajectory").items()},
        "layers": {scope: layers(part) for scope, part in parts(by_layer, "scope").items()},
        # Values of the question are in every row.
        "options": None if options.is_empty() else columns(options),
    }


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
