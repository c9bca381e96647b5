"""Ridge regressions in closed form from sums over tokens: a scale and a bias per channel, or a map of low rank.

Which states are regressed is in `repair.py`. All sums and solutions are float64.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.pruning.substitute import Substitute

# A channel whose variance is below this share of its mean square counts as constant: the sums' rounding is as large.
_CONSTANT = 1e-10


class ChannelSums:
    """Sums over tokens for y → s·y + b, each channel by itself.

    `is_moved` is whether any error was other than zero.
    """

    def __init__(self) -> None:
        self.is_moved = False
        self._tokens = 0
        self._sums: tuple[Tensor, ...] = ()

    def update(self, y: Float64[Tensor, "tokens channels"], error: Float64[Tensor, "tokens channels"]) -> None:
        """Add tokens: the values y and how much each should be larger."""
        self.is_moved |= bool(error.any())
        self._tokens += len(y)
        self._sums = _plus(self._sums, y.sum(0), error.sum(0), y.square().sum(0), (y * error).sum(0))

    def solve(
        self, damping: float, *, has_bias: bool
    ) -> tuple[Float64[Tensor, " channels"], Float64[Tensor, " channels"]]:
        """Return s and b, which minimize Σ(s·y + b − target)² + damping·Σ(y − b₀)²·(s − 1)² per channel.

        b₀ is the mean of y; without a bias it and b are 0. A constant channel keeps s = 1.

        Raises:
            ComputationError: there are no tokens, or a sum is NaN or infinite.
        """
        _require_finite(*self._sums)
        y, error, square, product = self._sums
        mean = y / self._tokens if has_bias else torch.zeros_like(y)
        spread = square - mean * y
        is_constant = spread <= _CONSTANT * square
        growth = (product - mean * error) / torch.where(is_constant, 1.0, spread * (1 + damping))
        growth = torch.where(is_constant, 0.0, growth)
        bias = error / self._tokens - growth * mean if has_bias else torch.zeros_like(y)
        return 1 + growth, bias


class MapSums:
    """Sums over tokens for a linear map x → t of low rank with a bias; of rank 0, for the bias alone."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._tokens = 0
        self._sums: tuple[Tensor, ...] = ()

    def update(self, x: Float64[Tensor, "tokens inputs"], target: Float64[Tensor, "tokens outputs"]) -> None:
        """Add tokens: what the map reads, and what it should return."""
        self._tokens += len(x)
        of_inputs = (x.sum(0), x.T @ x, x.T @ target) if self._rank else ()
        self._sums = _plus(self._sums, target.sum(0), *of_inputs)

    def solve(self, damping: float) -> Substitute:
        """Return the map with the least Σ‖map(x) − t‖² + λ‖writes · reads‖².

        λ is `damping` times the mean of the centred Gram matrix's diagonal. With G that matrix plus λ, C the centred
        products xᵀt and M = G⁻¹C, the solution is M V Vᵀ, where V has the first eigenvectors of MᵀGM = CᵀM (Mukherjee
        and Zhu, 2011: a reduced-rank regression on the data with √λ·I appended). Constant inputs give the bias alone.

        Raises:
            ComputationError: there are no tokens, or a sum is NaN or infinite.
        """
        _require_finite(*self._sums)
        t_mean = self._sums[0] / self._tokens
        if not self._rank:
            return Substitute(t_mean)
        _, x_sum, gram, products = self._sums
        x_mean, squares = x_sum / self._tokens, gram.diagonal().mean()
        gram = gram - torch.outer(x_sum, x_mean)
        ridge = damping * gram.diagonal().mean()
        if ridge <= damping * _CONSTANT * squares:
            return Substitute(t_mean)
        gram.diagonal().add_(ridge)
        centred = products - torch.outer(x_sum, t_mean)
        whole = torch.cholesky_solve(centred, torch.linalg.cholesky(gram))
        explained = centred.T @ whole
        rank = min(self._rank, *products.shape)
        writes = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].contiguous()
        reads = (whole @ writes).T.contiguous()
        return Substitute(t_mean - writes @ (reads @ x_mean), reads, writes)


def _plus(sums: tuple[Tensor, ...], *more: Tensor) -> tuple[Tensor, ...]:
    return tuple(one + other for one, other in zip(sums, more, strict=True)) if sums else more


def _require_finite(*sums: Tensor) -> None:
    if not sums or not all(bool(each.isfinite().all()) for each in sums):
        raise ComputationError("an activation is NaN or infinite on the calibration tokens, or there is none")
