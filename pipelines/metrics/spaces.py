"""Angles and lengths of vectors and their shifts, in forms that do not cancel.

Only linear algebra on rows; softmax belongs in `probabilities`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, " n"]


def one_minus_cos(along: Rows, across: Rows) -> Rows:
    """1 − cos between v and v + Δ, from the parts of Δ in units of ‖v‖.

    With A = 1 + along and r = hypot(A, across), the cosine is A/r. For A > 0 the defect is
    across²/(r (r + A)), a quotient of sums of positive terms; for A ≤ 0 nothing cancels in 1 − A/r.

    Args:
        along: ⟨Δ, v⟩/‖v‖².
        across: ‖Δ⊥‖/‖v‖.

    Returns:
        Values in [0, 2]; NaN where v + Δ is 0 and has no direction.
    """
    ahead = 1 + along
    length = torch.hypot(ahead, across)
    return torch.where(ahead > 0, across / length * (across / (length + ahead.abs())), 1 - ahead / length)


def space_columns(length: Rows, shift_length: Rows, along: Rows, across: Rows) -> dict[str, Rows]:
    """Columns of one space from ‖v‖, ‖Δ‖, ⟨Δ, v⟩/‖v‖² and ‖Δ⊥‖/‖v‖; t1 is 2603.24652 Theorem 1's estimate."""
    return {
        "norm": length,
        "norm_d": shift_length,
        "one_minus_cos": one_minus_cos(along, across),
        "par_rel": along,
        "orth_rel": across,
        "t1": across.square() / 2,
    }


def in_space(columns: dict[str, Rows], space: str) -> dict[str, Rows]:
    """The same columns under their names in the tables: `norm_h`, `norm_dh`, `t1_h` and so on."""
    return {f"norm_d{space}" if name == "norm_d" else f"{name}_{space}": rows for name, rows in columns.items()}


def space_metrics(v: Float[Tensor, "n m"], dv: Float[Tensor, "n m"]) -> dict[str, Rows]:
    """Norms, cosine defect, parallel and orthogonal parts of a shift, and T1, in float64.

    Δ⊥ is formed element by element, so a shift along v loses nothing.

    Args:
        v: Dense vectors.
        dv: Their shifts Δ.

    Returns:
        `norm`, `norm_d`, `one_minus_cos`, `par_rel`, `orth_rel` and `t1`, each float64 (n,); NaN where v is 0.
    """
    vector, shift = v.double(), dv.double()
    length = torch.linalg.vector_norm(vector, dim=-1)
    along = (vector * shift).sum(-1) / length.square()
    across = torch.linalg.vector_norm(shift - along[:, None] * vector, dim=-1) / length
    return space_columns(length, torch.linalg.vector_norm(shift, dim=-1), along, across)
