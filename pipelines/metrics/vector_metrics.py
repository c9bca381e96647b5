"""Angles and lengths of hidden states and their shifts in float64."""

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import Numbers, space


def space_metrics(v: Float[Tensor, "n m"], dv: Float[Tensor, "n m"]) -> dict[str, Numbers]:
    """Return norms, cosine defect, parallel and orthogonal part of the shift dv of dense states v, and Theorem 1.

    All is float64. Δ⊥ is computed element by element, so a shift along v loses no precision. The columns `norm_h`,
    `norm_dh`, `one_minus_cos_h`, `par_rel_h`, `orth_rel_h` and `t1_h` have the shape (n,); NaN if v is 0.
    """
    vector, shift = v.double(), dv.double()
    length = torch.linalg.vector_norm(vector, dim=-1)
    along = (vector * shift).sum(-1) / length.square()
    across = torch.linalg.vector_norm(shift - along[:, None] * vector, dim=-1) / length
    parts = (length, torch.linalg.vector_norm(shift, dim=-1), along, across)
    return space("h", *torch.stack(parts).cpu().numpy())
