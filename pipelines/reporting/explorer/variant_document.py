"""Documents `variant/<n>`, all of one variant, and `prompt/<m>`, the texts of all variants to a prompt."""

import json
from collections.abc import Callable, Mapping
from os.path import commonprefix
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import exact, prose
from prunescope.pipelines.reporting.explorer.queries import PROMPT, STATEMENTS
from prunescope.pipelines.reporting.explorer.query_cache import Document, QueryCache, columns, rows, table

# Displayed columns of each statement.
TABLES: dict[str, tuple[str, ...]] = {
    "carriers": ("layer", "sublayer", "scope", "share_of_kl", "kl_alone_nats", "prompts_parted"),
    "losses": (
        *("measure", "kind", "n_tasks", "n_answers", "loss", "loss_low", "loss_high", "noise_loss"),
        *("loss_beyond_noise", "loss_beyond_noise_low", "loss_beyond_noise_high"),
    ),
    "scores": ("task", "metric", "value", "standard_error", "value_dense", "standard_error_dense", "n"),
    "comparisons": (
        *("task", "metric", "n_samples", "accuracy_dense", "accuracy_pruned", "accuracy_change"),
        *("accuracy_change_low", "accuracy_change_high", "lost", "gained", "mcnemar_p", "holm_p"),
    ),
    "flips": ("task", "metric", "sample_id", "direction", "question", "target", "answer_dense", "answer_pruned"),
    "perplexity": (
        *("text_id", "tokens", "ppl_dense", "ppl_pruned", "ppl_pruned_se", "kl_mean_nats", "kl_mean_nats_se"),
        *("kl_p99_nats", "kl_noise_p95_nats", "top1_agreement"),
    ),
    "retrieval": ("data_set", "metric", "value", "standard_error", "value_dense", "n"),
    "speed": ("batch", "length", "new_tokens", "prefill_speedup", "decode_speedup", "peak_memory_ratio"),
}
MAX_FLIPS = 40
_ANSWER = 200


def variant(frames: QueryCache, model: str, recipe: str, prompts: Mapping[str, int]) -> Document:
    """Build the document of a pruned or the dense variant.

    Args:
        frames: results of the statements.
        model: model of the variant.
        recipe: recipe of the variant.
        prompts: position in the index of each prompt of the model, by id.
    """
    where = {"model": model, "recipe": recipe}
    places = dict(frames.of("written", **where).select("prompt_id", "place_in_order").iter_rows())
    texts = [text | {"prompt": prompts[text["prompt_id"]]} for text in text_rows(frames, _ANSWER, **where)]
    return {
        "facts": [
            {"name": name, "text": _fact(value)}
            for row in frames.of("facts", **where).drop("model", "recipe").iter_rows(named=True)
            for name, value in row.items()
            if value is not None and value != []
        ],
        # Those that break first come first, those of the dense model as in the index.
        "prompts": sorted(texts, key=lambda text: (places.get(text["prompt_id"], 0), text["prompt"])),
        "layers": by_scope(frames.of("layer_means", **where), columns),
        "tables": [
            table(_title(key, frame.height), frame.select(shown)[: MAX_FLIPS if key == "flips" else None], key)
            for key, shown in TABLES.items()
            if not (frame := frames.of(key, **where)).is_empty()
        ],
    }


def prompt(frames: QueryCache, row: Mapping[str, Any], m: int, variants: Mapping[str, int]) -> Document:
    """Build the document of the texts of all variants to one prompt, the dense model's first.

    Args:
        frames: results of the statements.
        row: the prompt's row of statement `prompts`.
        m: its position in the index.
        variants: position in the index of each variant of its model, by recipe.
    """
    where = {"model": row["model"], "prompt_id": row["prompt_id"]}
    recipes = frames.of("texts", **where)["recipe"].cast(pl.String).to_list()
    texts = zip(recipes, text_rows(frames, _ANSWER, **where), strict=True)
    shown = [text | {"prompt": m, "variant": variants[recipe]} for recipe, text in texts if recipe in variants]
    return {"texts": sorted(shown, key=lambda text: text["variant"])}


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


def by_scope(frame: pl.DataFrame, build: Callable[[pl.DataFrame], Document]) -> dict[str, Document]:
    """Return a document per scope."""
    parts = frame.partition_by("scope", as_dict=True, maintain_order=True)
    return {str(scope): build(part.drop("model", "recipe", "scope", strict=False)) for (scope,), part in parts.items()}


def _fact(value: object) -> str:
    """Return a value as text, with JSON on several lines."""
    if isinstance(value, str) and value.startswith("{"):
        return prose(json.dumps(json.loads(value), ensure_ascii=False, indent=2))
    return prose(", ".join(map(str, value)) if isinstance(value, list) else exact(value))


def _title(key: str, count: int) -> str:
    is_cut = key == "flips" and count > MAX_FLIPS
    return STATEMENTS[key].title + (f" (the first {MAX_FLIPS} of {count})" if is_cut else "")
