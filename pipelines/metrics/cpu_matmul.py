"""Products of states with a weight matrix that are fast on a CPU even with few rows."""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from prunescope.pipelines.core.hardware import proc_value

# Up to this many rows MKL is fastest on Intel's processors, and W xᵀ on others. For more rows oneDNN is fastest.
_MAX_FEW_ROWS = 3
# Rows of a weight converted to float64 at a time; they stay in the core's cache until the product has read them.
_BLOCK_ROWS = 192


@cache
def vendor() -> str:
    """Return the processor's vendor id; empty if the system does not report it."""
    return proc_value(Path("/proc/cpuinfo"), "vendor_id")


def product(x: Float[Tensor, "*n d"], weight: Float[Tensor, "v d"], bias: Float[Tensor, " v"] | None = None) -> Tensor:
    """Return x Wᵀ (+ bias) of shape (*n, v), equal to `linear` up to rounding; on a CPU, W must be float32.

    On other devices this is `linear`. On a CPU `linear` calls MKL, which is fast for few rows only on Intel's
    processors. For 225 rows two Zen cores reach 151 GFLOP/s with MKL and 174 with oneDNN. The table gives milliseconds
    on one busy core of a Zen and of an Emerald Rapids: all 210 matrices of SmolLM2-135M's layers + its head.

    rows                    1        2        3        4        8        16
    Zen    linear       41+11    63+27    68+41    52+20    65+22    78+27
           (W xᵀ)ᵀ      42+11    26+6     40+8     49+10    74+15    90+33
           oneDNN       37+9     44+11    47+12    49+12    58+15    81+19
    Xeon   linear       34+8     37+9     41+9     56+17    70+26    75+20
           (W xᵀ)ᵀ      33+8     75+22    76+21    75+22    75+21    78+22
           oneDNN       41+8     58+13    58+13    58+13    62+14    72+16
    """
    if weight.device.type != "cpu":
        return nn.functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > _MAX_FEW_ROWS and torch.backends.mkldnn.is_available():
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    elif vendor() == "GenuineIntel":
        result = nn.functional.linear(rows, weight, bias)
    elif bias is None:
        result = (weight @ rows.T).T.contiguous()
    else:
        result = torch.addmm(bias[:, None], weight, rows.T).T.contiguous()
    return result.reshape(*x.shape[:-1], weight.shape[0])


def product64(x: Float[Tensor, "*n d"], weight: Float[Tensor, "v d"]) -> Float64[Tensor, "*n v"]:
    """Return x Wᵀ in float64 without a float64 copy of W; it takes twice as long as in float32."""
    columns = x.double().reshape(-1, x.shape[-1]).T.contiguous()
    result = columns.new_empty(len(weight), columns.shape[1])
    block = columns.new_empty(min(_BLOCK_ROWS, len(weight)), weight.shape[1])
    for start in range(0, len(weight), _BLOCK_ROWS):
        rows = weight[start : start + _BLOCK_ROWS]
        torch.mm(block[: len(rows)].copy_(rows), columns, out=result[start : start + len(rows)])
    return result.T.reshape(*x.shape[:-1], len(weight))
