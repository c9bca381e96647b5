"""Intervals computed in other ways than the SQL macros do: by scipy, numerical roots and numerical derivatives."""

import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

Interval = tuple[float, float]
# A figure as a function of the weights of its units, 1 each.
Figure = Callable[[np.ndarray], float]
Z = float(stats.norm.ppf(0.975))


def wilson(successes: float, trials: float) -> Interval:
    """Return the shares that a score test does not reject, down to Poisson's exact end at one success or failure."""

    def end(side: float) -> float:
        share = successes / trials
        edge = 0.0 if side < 0 else 1.0
        if share == edge:
            return edge
        # At an end of the scale the share itself is the other root.
        start = share + side * 1e-12
        return float(
            optimize.brentq(
                lambda p: (share - p) ** 2 - Z**2 * p * (1 - p) / trials, start, edge, xtol=1e-14, rtol=1e-14
            )
        )

    low, high = end(-1), end(1)
    if 0 < successes <= 1:
        low = min(low, successes * stats.chi2.ppf(0.05, 2) / 2 / trials)
    if 0 < trials - successes <= 1:
        high = max(high, 1 - (trials - successes) * stats.chi2.ppf(0.05, 2) / 2 / trials)
    return low, high


def over_clusters(successes: list[int], trials: list[int]) -> Interval:
    """Return Wilson's interval with Korn and Graubard's effective trials, or Kish's clusters where few are touched."""
    x, n = np.array(successes, dtype=float), np.array(trials, dtype=float)
    share = x.sum() / n.sum()
    if min((x > 0).sum(), (x < n).sum()) < 4:
        effective = n.sum() ** 2 / (n**2).sum()
    else:
        deviations = (x - share * n) / n.sum()
        variance = len(x) / (len(x) - 1) * (deviations**2).sum()
        effective = min(share * (1 - share) / variance, n.sum()) * (Z / stats.t.ppf(0.975, len(x) - 1)) ** 2
    return wilson(share * effective, effective)


def of_difference(a: float, of_a: Interval, b: float, of_b: Interval, correlation: float = 0.0) -> Interval:
    """Return Zou and Donner's interval of a − b."""

    def distance(x: float, y: float) -> float:
        return math.sqrt(max(x**2 + y**2 - 2 * correlation * x * y, 0))

    return a - b - distance(a - of_a[0], of_b[1] - b), a - b + distance(of_a[1] - a, b - of_b[0])


def of_ratio(a: float, of_a: Interval, b: float, of_b: Interval, correlation: float = 0.0) -> Interval:
    """Return the ratios r for which the interval of a − r b includes 0, found by bisection; b is above 0."""

    def includes(ratio: float) -> bool:
        scaled = sorted((ratio * of_b[0], ratio * of_b[1]))
        sign = math.copysign(1, ratio)
        low, high = of_difference(a, of_a, ratio * b, (scaled[0], scaled[1]), sign * correlation)
        return low <= 0 <= high

    def end(side: float) -> float:
        inside, outside = a / b, a / b + side * 1e4
        for _ in range(200):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if includes(middle) else (inside, middle)
        return inside

    return end(-1), end(1)


def of_paired_change(lost: int, gained: int, pairs: int) -> Interval:
    """Return Newcombe's interval of (gained − lost) / pairs, extended to 0 where the exact test does not reject."""
    of_gained, of_lost = wilson(gained, pairs), wilson(lost, pairs)
    # The covariance of two cells of a multinomial draw over both standard deviations.
    spread = math.sqrt(gained * (pairs - gained) * lost * (pairs - lost))
    correlation = -gained * lost / spread if spread else 0.0
    low, high = of_difference(gained / pairs, of_gained, lost / pairs, of_lost, correlation)
    is_rejected = lost + gained > 0 and stats.binomtest(lost, lost + gained).pvalue < 0.05
    return (low, high) if is_rejected else (min(low, 0), max(high, 0))


def clustered(values: np.ndarray, cluster: np.ndarray) -> float:
    """Return the standard error of the mean by the sandwich formula, clusters of any size."""
    rest = values - values.mean()
    sums = np.array([rest[cluster == one].sum() for one in np.unique(cluster)])
    return math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values)


def half_width(figure: Figure, units: int) -> float:
    """Return half the width of a figure's 95 % interval by the infinitesimal jackknife over units and Student's t."""
    step = 1e-5
    influences = [(figure(1 + step * unit) - figure(1 - step * unit)) / (2 * step) for unit in np.eye(units)]
    error = math.sqrt(units / (units - 1) * float(np.square(influences).sum()))
    return float(stats.t.ppf(0.975, units - 1)) * error


def on_fishers_scale(correlation: float, half: float) -> Interval:
    """Return the interval of a correlation whose half-width was computed without a transformation."""
    scaled = half / (1 - correlation**2)
    return math.tanh(math.atanh(correlation) - scaled), math.tanh(math.atanh(correlation) + scaled)


def of_auc(auc: float, half: float) -> Interval:
    """Return the same of an area under a ROC curve, by way of Somers' D."""
    low, high = on_fishers_scale(2 * auc - 1, 2 * half)
    return (1 + low) / 2, (1 + high) / 2


def auc_of_pairs(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the area under the ROC curve by its definition over all pairs, each row of scores with its weight."""
    rows = np.ones(len(scores)) if weights is None else weights
    every = np.broadcast_to(rows.reshape(-1, *[1] * (scores.ndim - 1)), scores.shape)
    positive, negative = scores[is_positive][:, None], scores[~is_positive][None, :]
    above = (positive > negative) + 0.5 * (positive == negative)
    pairs = every[is_positive][:, None] * every[~is_positive][None, :]
    return float((above * pairs).sum() / pairs.sum())


def weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Return Pearson's correlation of two arrays, unit × observation, with a weight for each unit."""
    covariance = np.cov(x.ravel(), y.ravel(), aweights=np.repeat(weights, x[0].size), ddof=0)
    return float(covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]))
