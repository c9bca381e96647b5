"""Columns of a multiple-choice question, on its option tokens alone and on the whole vocabulary."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prunescope.pipelines.metrics.divergence_columns import Numbers, shift_columns
from prunescope.pipelines.metrics.eager_kernels import dense_sums
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.metrics.ranking import ranks
from prunescope.pipelines.metrics.vector_metrics import space_metrics


@torch.inference_mode()
def option_row(
    x: Float[Tensor, " d"],
    dx: Float[Tensor, " d"],
    head: OutputHead,
    option_ids: Sequence[int],
    options: Sequence[str],
    temperature: float,
) -> dict[str, object]:
    """Return the columns of one question in h-, z- and p-space.

    x is the head's input at the question's last token, dx its shift. Logits are float32 products. All arithmetic on
    them is float64, and shifts are never differences of logits. Each option has one token and a label. List columns are
    in the order of the options, and ties go to the earlier one.
    """
    from scipy import stats  # slow to import

    z, dz = head.logits_of_state(x[None]).double(), head.shift(x[None], dx[None]).double()
    dense, pruned = z[0], z[0] + dz[0]
    ids = torch.tensor(list(option_ids), device=dense.device)
    row: dict[str, object] = {}
    chosen: dict[str, str] = {}
    for side, logits in (("dense", dense), ("pruned", pruned)):
        of_options = logits[ids]
        p_full = torch.log_softmax(logits / temperature, -1)[ids].exp()
        chosen[side] = options[int(of_options.argmax())]
        row |= {
            f"argmax_{side}": chosen[side],
            f"logits_{side}": of_options.tolist(),
            f"p_full_{side}": p_full.tolist(),
            f"p_options_{side}": torch.softmax(of_options / temperature, -1).tolist(),
            f"rank_{side}": ranks(logits.expand(len(ids), -1), ids).tolist(),
            f"mass_{side}": float(p_full.sum()),
        }
    z_options, dz_options = z[:, ids], dz[:, ids]
    agreement = stats.kendalltau(dense[ids].tolist(), pruned[ids].tolist()).statistic
    whole, part = _exact(z, dz, temperature), _exact(z_options, dz_options, temperature)
    return row | {
        "is_argmax_same": chosen["dense"] == chosen["pruned"],
        # NaN if all logits of one side are equal.
        "kendall_tau": None if math.isnan(agreement) else float(agreement),
        "one_minus_cos_z_options": float(part["one_minus_cos_z"][0]),
        "one_minus_cos_p_options": float(part["one_minus_cos_p"].item()),
        "kl_options_dense_pruned_nats": float(part["kl_dense_pruned_nats"].item()),
        "one_minus_cos_h": float(space_metrics(x[None], dx[None])["one_minus_cos_h"][0]),
        "one_minus_cos_z": float(whole["one_minus_cos_z"][0]),
        "one_minus_cos_p": float(whole["one_minus_cos_p"].item()),
        "kl_dense_pruned_nats": float(whole["kl_dense_pruned_nats"].item()),
    }


def _exact(z: Tensor, dz: Tensor, temperature: float) -> dict[str, Numbers]:
    dense, shift_sums = dense_sums(z, [temperature], top=2)
    return shift_columns(dense, shift_sums(dz))
