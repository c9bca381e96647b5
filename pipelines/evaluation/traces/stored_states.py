"""Conversion between residual streams and rows of `hidden_states`, which are float16 with one scale per row."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.core.errors import InputError

# The row's largest entry lands in [2^14, 2^15), the highest binade from which rounding never reaches infinity.
_MAX_EXPONENT = 15
_MIN_FLOAT32_EXPONENT = -126
# Scopes whose shift is measured on the final stream; in other scopes it is measured right after the sublayer.
AT_OUTPUT = ("isolated", "restored")
_KEY = ("model", "prompt_id", "position", "layer", "sublayer")


def state_rows(
    prompt_ids: Sequence[str] | pl.Series,
    positions: Sequence[int] | pl.Series,
    layer: int,
    sublayer: str,
    states: Mapping[str, Float[Tensor, "rows width"] | None],
) -> list[pl.DataFrame]:
    """Return the rows of `hidden_states` of one sublayer, one frame per scope.

    A value is scale × float16. The scale is a power of two, so scaling is exact and only float16 rounds. The error is
    at most 2^-11 of an entry that is at least 2^-28 of the row's largest, and 2^-39 of the largest for smaller entries.

    `states` has, by scope, the stream for `dense` and the shift for other scopes; None gives no rows. `prompt_ids` and
    `positions` are those of the rows of each tensor.
    """
    frames = []
    for scope, values in states.items():
        if values is not None:
            # float16 in units of the row's scale
            _, exponent = torch.frexp(values.float().abs().amax(dim=-1, keepdim=True))
            exponent = (exponent - _MAX_EXPONENT).clamp(min=_MIN_FLOAT32_EXPONENT)
            scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)
            state = (values.float() / scale).half().cpu().numpy()
            columns = {
                "prompt_id": prompt_ids,
                "position": positions,
                "layer": layer,
                "sublayer": sublayer,
                "scope": scope,
                "scale": scale[:, 0].cpu().numpy(),
                "state": pl.Series(state).arr.to_list(),
            }
            frames.append(pl.DataFrame(columns))
    return frames


def read_states(frame: pl.DataFrame) -> tuple[pl.DataFrame, Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """Return the rows of all recipes but `dense`, the dense stream of each, and its shift, both in float32.

    `frame` has rows of `hidden_states` of one model, including those of the recipe `dense`. The returned rows come
    without vectors. A shift of scope `isolated` or `restored` is paired with the final stream.

    Raises:
        InputError: a shift has no dense stream.
    """
    is_dense = frame["scope"] == "dense"
    dense, moved = frame.filter(is_dense), frame.filter(~is_dense)
    is_final = pl.col("scope").cast(pl.String).is_in(AT_OUTPUT)
    streams = moved.select(
        *("model", "prompt_id", "position"),
        layer=pl.when(is_final).then(pl.lit(dense["layer"].max(), pl.Int16)).otherwise("layer"),
        sublayer=pl.when(is_final).then(pl.lit("mlp")).otherwise(pl.col("sublayer").cast(pl.String)),
    )
    key = [pl.col(name).cast(pl.String) if name in {"model", "prompt_id", "sublayer"} else name for name in _KEY]
    rows = streams.select(key).join(
        dense.select(key).with_row_index("row"), on=list(_KEY), how="left", maintain_order="left"
    )["row"]
    if rows.null_count():
        first = moved.row(int(rows.is_null().arg_max() or 0), named=True)
        missing = ", ".join(f"{name} {first[name]}" for name in _KEY)
        raise InputError(f"hidden_states: no dense stream at {missing}; also read the recipe dense of the same study")
    return moved.drop("scale", "state"), _values(dense)[rows.to_torch().long()], _values(moved)


def _values(frame: pl.DataFrame) -> Tensor:
    if frame.is_empty():
        return torch.empty(0, 0)
    state = frame["state"].explode().to_numpy().reshape(len(frame), -1)
    return torch.from_numpy(state.astype(np.float32) * frame["scale"].to_numpy()[:, None])
