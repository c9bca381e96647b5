"""Document `prompt/<m>`: the texts of all variants to one prompt, and how early each differs from the dense one."""

from collections.abc import Mapping
from typing import Any

from prunescope.pipelines.reporting.explorer.document_types import PromptDocument
from prunescope.pipelines.reporting.explorer.query_cache import QueryCache
from prunescope.pipelines.reporting.explorer.variant_document import summary


def prompt(frames: QueryCache, row: Mapping[str, Any], m: int, variants: Mapping[str, int]) -> PromptDocument:
    """Build the document.

    Args:
        frames: results of the statements.
        row: the prompt's row of statement `prompts`.
        m: its position in the index.
        variants: recipe of each variant of its model → position in the index.
    """
    where = {"model": row["model"], "prompt_id": row["prompt_id"]}
    means, parts = (
        {found["recipe"]: found for found in frames.of(key, **where).iter_rows(named=True)}
        for key in ("text_means", "parts")
    )
    texts = [text for text in frames.of("texts", **where).iter_rows(named=True) if text["recipe"] in variants]
    return {
        "prompt_id": row["prompt_id"],
        "texts": [
            {
                **summary(text, means.get(text["recipe"], {}), parts.get(text["recipe"], {}), m),
                "variant": variants[text["recipe"]],
            }
            for text in sorted(texts, key=lambda text: variants[text["recipe"]])
        ],
        "sql": {key: key for key in ("texts", "text_means", "parts")},
    }
