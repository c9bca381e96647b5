"""Angles and lengths of vectors and their shifts, element by element in float64.

For vectors that are short beside a vocabulary: head inputs and option subspaces.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import Numbers, space


def space_metrics(name: str, v: Float[Tensor, "n m"], dv: Float[Tensor, "n m"]) -> dict[str, Numbers]:
    """Norms, cosine defect, parallel and orthogonal parts of a shift, and T1, in float64.

    Δ⊥ is formed element by element, so a shift along v loses nothing.

    Args:
        name: of the space, as in the columns: `h`, `z` or `p`.
        v: Dense vectors.
        dv: Their shifts Δ.

    Returns:
        `norm_h`, `norm_dh`, `one_minus_cos_h`, `par_rel_h`, `orth_rel_h` and `t1_h`, each (n,); NaN where v is 0.
    """
    vector, shift = v.double(), dv.double()
    length = torch.linalg.vector_norm(vector, dim=-1)
    along = (vector * shift).sum(-1) / length.square()
    across = torch.linalg.vector_norm(shift - along[:, None] * vector, dim=-1) / length
    parts = (length, torch.linalg.vector_norm(shift, dim=-1), along, across)
    return space(name, *(part.cpu().numpy() for part in parts))
