"""A few rows of logits at a time: what all their shifts share, and the columns of one shift, h apart.

Matrix products, blocks and checks belong in `divergence`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipelines.metrics.probabilities import DenseSoftmax, dot, shift_columns, squares, total
from pipelines.metrics.ranking import rank_of, top_ids
from pipelines.metrics.spaces import Rows, in_space, space_columns, space_metrics

# Rows of one matrix product, x and shifts together: large enough for its full speed, small beside a model.
BLOCK_ROWS = 256
_TOP = 5
_BUFFER_NUMBERS = 2**19  # numbers in one buffer: 2 MiB, so that all of them fit the last cache
# Below this share, ‖Δz‖² − ⟨Δz, z⟩²/‖z‖² and E[Δz²] − E[Δz]² have cancelled too far for sums of float32.
_SMALLEST_LEFT = 1e-2


@dataclass(frozen=True)
class Workspace:
    """Buffers that every group of rows uses again.

    One that outlives a call saves the system from handing out the same pages again and again.

    Args:
        logits: One block of matrix products, (block, V).
        gap: z − max z, (rows, V).
        p: Dense probabilities, (temperatures, rows, V).
        scratch: Three more, (3, rows, V).
    """

    logits: Float[Tensor, "block v"]
    gap: Float[Tensor, "rows v"]
    p: Float[Tensor, "t rows v"]
    scratch: Float[Tensor, "3 rows v"]

    @classmethod
    def of(cls, weight: Float[Tensor, "v d"], temperatures: int, block_rows: int = BLOCK_ROWS) -> "Workspace":
        """Buffers for logits of a head with this weight, so many temperatures and rows of one matrix product."""
        size = weight.shape[0]
        rows = max(1, _BUFFER_NUMBERS // size)
        buffers = weight.new_empty((4 + temperatures, rows, size), dtype=torch.float32)
        logits = buffers.new_empty((block_rows, size))
        return cls(logits, buffers[0], buffers[4:], buffers[1:4])

    @property
    def rows(self) -> int:
        """Rows of one group."""
        return self.gap.shape[0]


@dataclass(frozen=True)
class DenseRows:
    """The dense side of a group of rows.

    Args:
        z: Dense logits.
        gap: z − max z.
        z_squares: ‖z‖².
        ids: The most likely tokens, in order.
        margin: Logit of the first minus logit of the second.
        softmaxes: One a temperature.
    """

    z: Float[Tensor, "n v"]
    gap: Float[Tensor, "n v"]
    z_squares: Rows
    ids: Int[Tensor, "n k"]
    margin: Rows
    softmaxes: list[DenseSoftmax]

    @classmethod
    def of(cls, z: Float[Tensor, "n v"], temperatures: Sequence[float], workspace: Workspace) -> "DenseRows":
        """Everything that does not depend on a shift."""
        rows = len(z)
        scratch = workspace.scratch[0, :rows]
        ids, margin = _top(z)
        gap = torch.sub(z, z.gather(1, ids[:, :1]), out=workspace.gap[:rows])
        softmaxes = [
            DenseSoftmax.of(gap, ids[:, 0], temperature, p[:rows], scratch)
            for temperature, p in zip(temperatures, workspace.p, strict=True)
        ]
        return cls(z, gap, squares(z), ids, margin, softmaxes)

    def moved(self, dz: Float[Tensor, "n v"], workspace: Workspace) -> dict[str, Tensor]:
        """Columns of one shift: (n,), or (temperatures, n) in p-space."""
        buffers = workspace.scratch[:, : len(dz)]
        top = self.ids[:, 0]
        in_z = self._logit_columns(dz, buffers[0])
        dz_max, is_still = dz.amax(-1), in_z["norm_dz"] == 0
        by_temperature = [
            {**dense.columns(), **shift_columns(dense, self.gap, dz, dz_max, is_still, top, buffers)}
            for dense in self.softmaxes
        ]
        pruned = torch.add(self.z, dz, out=buffers[0])
        ids, margin = _top(pruned)
        return {
            **_stacked(by_temperature),
            **in_z,
            "is_top1_same": ids[:, 0] == top,
            "topk5_overlap": (self.ids[:, :, None] == ids[:, None, :]).any(-1).double().mean(-1),
            "rank_of_dense_top1": _rank(top, ids, pruned),
            "rank_of_pruned_top1": _rank(ids[:, 0], self.ids, self.z),
            "margin_dense": self.margin,
            "margin_pruned": margin,
        }

    def unmoved(self) -> dict[str, Tensor]:
        """Columns of a shift of zero."""
        zero = torch.zeros_like(self.margin)
        one = torch.ones_like(self.ids[:, 0])
        by_temperature = []
        for dense in self.softmaxes:
            own = dense.columns()
            by_temperature.append(
                own
                | {"p_dense_top1_pruned": own["p_dense_top1_dense"], "entropy_pruned_nats": own["entropy_dense_nats"]}
            )
        return {
            **_stacked(by_temperature),
            **dict.fromkeys(_ZERO_WITHOUT_SHIFT, zero),
            "norm_z": self.z_squares.sqrt(),
            "is_top1_same": one.bool(),
            "topk5_overlap": one,
            "rank_of_dense_top1": one,
            "rank_of_pruned_top1": one,
            "margin_dense": self.margin,
            "margin_pruned": self.margin,
        }

    def _logit_columns(self, dz: Tensor, buffer: Tensor) -> dict[str, Rows]:
        """Geometry of z and the plain variance of Δz, from sums; in float64 where the sums have cancelled."""
        size = dz.shape[1]
        dz_squares, mean = squares(dz), total(dz) / size
        along = dot(self.z, dz, buffer) / self.z_squares
        across = dz_squares - along.square() * self.z_squares
        variance = dz_squares / size - mean.square()
        columns = space_columns(
            self.z_squares.sqrt(), dz_squares.sqrt(), along, (across.clamp(min=0) / self.z_squares).sqrt()
        )
        is_lost = (across < _SMALLEST_LEFT * dz_squares) | (variance < _SMALLEST_LEFT * dz_squares / size)
        redo = is_lost.nonzero()[:, 0]
        if len(redo):
            for name, values in space_metrics(self.z[redo], dz[redo]).items():
                columns[name][redo] = values
            variance[redo] = torch.var(dz[redo].double(), dim=-1, correction=0)
        return {**in_space(columns, "z"), "var_uniform_dz": variance}


_ZERO_WITHOUT_SHIFT = (
    *(name.format(space) for name in ("norm_d{}", "one_minus_cos_{}", "par_rel_{}", "orth_rel_{}") for space in "zp"),
    "t1_z",
    "var_uniform_dz",
    "var_r_dz",
    "t2_p",
    "var_p_dz",
    "t3_kl_nats",
    "kl_dense_pruned_nats",
    "kl_pruned_dense_nats",
    "js_nats",
    "total_variation",
)


def _top(logits: Tensor) -> tuple[Tensor, Rows]:
    """Ids of the most likely tokens, and the logit of the first minus that of the second."""
    ids = top_ids(logits, _TOP)
    values = logits.gather(1, ids[:, :2]).double()
    return ids, values[:, 0] - values[:, -1]


def _rank(token: Tensor, ids: Tensor, logits: Tensor) -> Tensor:
    """Rank of a token of every row: its place among the top ids, counted over the vocabulary where it is not there."""
    is_there = ids == token[:, None]
    rank = torch.where(is_there.any(-1), is_there.int().argmax(-1) + 1, 0)
    for row in (rank == 0).nonzero()[:, 0].tolist():
        rank[row] = rank_of(logits[row], int(token[row]))
    return rank


def _stacked(by_temperature: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([columns[name] for columns in by_temperature]) for name in by_temperature[0]}
