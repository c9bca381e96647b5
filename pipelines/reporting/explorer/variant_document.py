"""Documents `variant/<n>`, recipe and results of a variant, and `prompt/<m>`, the texts of all variants to a prompt."""

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

import polars as pl

from prunescope.pipelines.reporting.charts.display_text import prose
from prunescope.pipelines.reporting.explorer.document_types import (
    Fact,
    LayerCurves,
    PromptDocument,
    PromptSummary,
    Table,
    VariantDocument,
)
from prunescope.pipelines.reporting.explorer.queries import STATEMENTS
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache, number, numbers, table_rows, text_outcome

# Displayed columns of each statement.
TABLES: dict[str, tuple[str, ...]] = {
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
CELL = 200


def variant(frames: QueryCache, model: str, recipe: str, prompts: Mapping[str, int]) -> VariantDocument:
    """Build the document of a pruned or the dense variant.

    Args:
        frames: results of the statements.
        model: model of the variant.
        recipe: recipe of the variant.
        prompts: position in the index of each prompt of the model, by id.
    """
    where = {"model": model, "recipe": recipe}
    return {
        "facts": _facts(frames.of("facts", **where)),
        "prompts": _prompts(frames, where, prompts),
        "layers": _layers(frames.of("layer_means", **where)),
        "carriers": [
            {
                "place": f"{row['layer']} {row['sublayer']}",
                "scope": row["scope"],
                "kl": number(row["kl_alone_nats"]),
                "share": number(row["share_of_kl"]),
                "parted": row["prompts_parted"],
            }
            for row in frames.of("carriers", **where).iter_rows(named=True)
        ],
        "tables": [
            _table(key, frame, columns)
            for key, columns in TABLES.items()
            if not (frame := frames.of(key, **where)).is_empty()
        ],
    }


def prompt(frames: QueryCache, row: Mapping[str, Any], m: int, variants: Mapping[str, int]) -> PromptDocument:
    """Build the document of the texts of all variants to one prompt, with how early each differs from the dense one.

    Args:
        frames: results of the statements.
        row: the prompt's row of statement `prompts`.
        m: its position in the index.
        variants: position in the index of each variant of its model, by recipe.
    """
    where = {"model": row["model"], "prompt_id": row["prompt_id"]}
    means, parts = (_by(frames.of(key, **where), "recipe") for key in ("text_means", "parts"))
    texts = [text for text in frames.of("texts", **where).iter_rows(named=True) if text["recipe"] in variants]
    return {
        "texts": [
            {
                **_summary(text, means.get(text["recipe"], {}), parts.get(text["recipe"], {}), m),
                "variant": variants[text["recipe"]],
            }
            for text in sorted(texts, key=lambda text: variants[text["recipe"]])
        ],
    }


def _facts(frame: pl.DataFrame) -> list[Fact]:
    return [
        {"name": name, "text": _fact(value)}
        for row in frame.drop("model", "recipe").iter_rows(named=True)
        for name, value in row.items()
        if value is not None and value != []
    ]


def _fact(value: object) -> str:
    """Return a value as text, with JSON on several lines."""
    if isinstance(value, str) and value.startswith("{"):
        return prose(json.dumps(json.loads(value), ensure_ascii=False, indent=2))
    if isinstance(value, list):
        return prose(", ".join(map(str, value)))
    return prose(f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value))


def _prompts(frames: QueryCache, where: Mapping[str, str], positions: Mapping[str, int]) -> list[PromptSummary]:
    """Return the texts of a variant: texts that break first come first, those of the dense model as in the index."""
    means, parts = (_by(frames.of(key, **where), "prompt_id") for key in ("text_means", "parts"))
    places = _by(frames.of("written", **where), "prompt_id")
    texts = sorted(
        frames.of("texts", **where).iter_rows(named=True),
        key=lambda text: (places.get(text["prompt_id"], {}).get("place_in_order", 0), positions[text["prompt_id"]]),
    )
    return [
        _summary(text, means.get(text["prompt_id"], {}), parts.get(text["prompt_id"], {}), positions[text["prompt_id"]])
        for text in texts
    ]


def _by(frame: pl.DataFrame, column: str) -> dict[str, dict[str, Any]]:
    return {row[column]: row for row in frame.iter_rows(named=True)}


def _summary(text: Mapping[str, Any], mean: Mapping[str, Any], parts: Mapping[str, Any], prompt: int) -> PromptSummary:
    """Return the summary of one text.

    Args:
        text: row of statement `texts`.
        mean: its row of `text_means`, if any.
        parts: its row of `parts`, if any.
        prompt: position of the prompt in the index.
    """
    dense, pruned = text["text_dense"] or "", text["text"] or ""
    same = len(commonprefix([dense, pruned]))  # noqa: RUF071 - characters are intended
    return {
        **text_outcome(text, parts, CELL),
        "prompt": prompt,
        "text_same": prose(dense[:same]),
        "text_dense": prose(dense[same:]),
        "text_pruned": prose(pruned[same:]),
        "kl_step0": number(mean.get("kl_step0_nats")),
        "kl_forced_mean": number(mean.get("kl_forced_mean_nats")),
        "kl_own_mean": number(mean.get("kl_own_mean_nats")),
    }


def _layers(frame: pl.DataFrame) -> dict[str, LayerCurves]:
    return {
        str(scope): {
            "places": [f"{layer} {sublayer}" for layer, sublayer in part.select("layer", "sublayer").iter_rows()],
            "is_changed": part["is_changed"].to_list(),
            "h": numbers(part["one_minus_cos_h_mean"]),
            "z": numbers(part["one_minus_cos_z_mean"]),
            "p": numbers(part["one_minus_cos_p_mean"]),
            "kl": numbers(part["kl_mean_nats"]),
            "kl_noise": numbers(part["kl_noise_p95_nats"]),
        }
        for (scope,), part in frame.partition_by("scope", as_dict=True, maintain_order=True).items()
    }


def _table(key: str, frame: pl.DataFrame, columns: Sequence[str]) -> Table:
    title = STATEMENTS[key].title
    if key == "flips" and frame.height > MAX_FLIPS:
        title += f" (the first {MAX_FLIPS} of {frame.height})"
        frame = frame.head(MAX_FLIPS)
    return {
        "title": title,
        "columns": list(columns),
        "rows": table_rows(frame, columns, lambda text: prose(text, CELL)),
        "sql": key,
    }
