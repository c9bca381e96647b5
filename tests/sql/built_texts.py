"""Rows of `text_tokens` written by hand, for `warehouse_builder`."""

import math

from prunescope.warehouse.tables.text_tokens import NAMES
from tests.sql.warehouse_builder import MODEL, Handmade, divergence


def text_token(
    warehouse: Handmade,
    recipe: str,
    position: int,
    kl: float = 0.0,
    *,
    window: int = 0,
    p_dense: float = 0.5,
    p_pruned: float | None = None,
    text: str = "wiki",
    model: str = MODEL,
    **given: object,
) -> None:
    """Add a row from the target's probabilities on both sides; divergences that are not given follow from `kl`."""
    measures = divergence(kl, **given)
    warehouse.rows["text_tokens"].append(
        {
            "model": model,
            "recipe": recipe,
            "text_id": text,
            "text_hash": "0" * 8,
            "context": 4,
            "stride": 2,
            "window_id": window,
            "position": position,
            "token_id": 3,
            "log_p_target_dense": math.log(p_dense),
            "log_p_target_pruned": math.log(p_dense if p_pruned is None else p_pruned),
            **{name: measures[name] for name in NAMES},
        }
    )
