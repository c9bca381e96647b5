"""Intervals computed in other ways than the SQL macros do: by scipy, and by solving for the ends numerically."""

import math

from scipy import optimize, stats

Interval = tuple[float, float]
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


def correlation_of(trials: int, one: int, other: int, together: int) -> float:
    """Return the correlation in a table of four cells with half a trial added to each."""
    cells = [together, one - together, other - together, trials - one - other + together]
    both, first, second, neither = (cell + 0.5 for cell in cells)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    return float((both * neither - first * second) / math.sqrt(margins))
