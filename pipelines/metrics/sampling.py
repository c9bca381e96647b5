"""Sampling with common random numbers, and the probability that two distributions then give different tokens.

Token = argmax over the nucleus of ln p_T(i) + g_i. The Gumbel noise g depends only on seed, prompt, sample, step and
token. So two models that read the same tokens draw different ones only if their distributions differ.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

# Number of top tokens first searched for a nucleus, and the factor by which the number grows.
_FIRST_LOOK, _GROWTH = 64, 16
# A quotient by a smaller probability may overflow. A token with such a probability is never drawn.
_LEAST = 1e-290
# Constants of splitmix64 (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195).
_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Nucleus:
    """The tokens that may be drawn: ascending ids, and scores (logit − largest)/temperature; exp(score) is a weight."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


def nuclei(logits: Float[Tensor, "n v"], temperature: float, top_p: float) -> list[Nucleus]:
    """Return each row's smallest set of likeliest tokens with a total probability of `top_p`; ties by lower id.

    `logits` are those at T = 1.
    """
    size = logits.shape[1]
    peaks = logits.amax(-1, keepdim=True)
    if top_p >= 1:
        every = np.arange(size)
        return [Nucleus(every, row) for row in ((logits.double() - peaks.double()) / temperature).cpu().numpy()]
    needed = top_p * ((logits - peaks) / temperature).exp_().sum(-1, dtype=torch.float64).cpu().numpy()
    highest = peaks.double().cpu().numpy()
    by_row: dict[int, Nucleus] = {}
    rows, look = list(range(len(logits))), min(_FIRST_LOOK, size)
    while rows:
        best = logits[rows].topk(look)
        values, ids = best.values.double().cpu().numpy(), best.indices.cpu().numpy()
        scores = (values - highest[rows]) / temperature
        mass = np.exp(scores).cumsum(-1)
        for place, row in enumerate(rows):
            count = int(np.searchsorted(mass[place], needed[row])) + 1
            if count <= look or look == size:
                last = min(count, look) - 1
                # `topk` does not order ties, and some may be missing from its result.
                tied = ids[place][values[place] == values[place, last]]
                if values[place, -1] == values[place, last] and look < size:
                    tied = (logits[row] == values[place, last]).nonzero()[:, 0].cpu().numpy()
                above = ids[place][values[place] > values[place, last]]
                ties = np.sort(tied)[: last + 1 - len(above)]
                order = np.argsort(chosen := np.concatenate([above, ties]))
                of_chosen = np.concatenate([scores[place, : len(above)], np.repeat(scores[place, last], len(ties))])
                by_row[row] = Nucleus(chosen[order], of_chosen[order])
        rows = [row for row in rows if row not in by_row]
        look = min(look * _GROWTH, size)
    return [by_row[row] for row in range(len(logits))]


def noise_key(seed: int, prompt_id: str, sample: int) -> int:
    """Return the noise key of one sampled text."""
    text = json.dumps([seed, prompt_id, sample]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def gumbel_noise(key: int, step: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise of some tokens at one step of a text."""
    with np.errstate(over="ignore"):  # numbers modulo 2^64
        state = _mixed(np.uint64(key) + np.uint64(step + 1) * _GOLDEN)
        bits = _mixed(state + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN) >> np.uint64(12)
    # A multiple of 2^-52 plus half of that, so never 0 or 1.
    uniform: NDArray[np.float64] = (bits.astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))


def _mixed(state: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return the output function of splitmix64."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    mixed: NDArray[np.uint64] = np.asarray(state ^ (state >> np.uint64(31)))
    return mixed


def draw(nucleus: Nucleus, key: int, step: int) -> int:
    """Return the token drawn with the noise of a step, ties by lower id."""
    return int(nucleus.ids[np.argmax(nucleus.scores + gumbel_noise(key, step, nucleus.ids))])


def on_union(p: Nucleus, q: Nucleus) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probabilities of two nuclei, each renormalised, over the union of their tokens."""
    ids = p.ids if np.array_equal(p.ids, q.ids) else np.union1d(p.ids, q.ids)
    sides = np.zeros((2, len(ids)))
    for side, nucleus in zip(sides, (p, q), strict=True):
        weights = np.exp(nucleus.scores)
        side[np.searchsorted(ids, nucleus.ids)] = weights / weights.sum()
    return sides[0], sides[1]


def total_variation(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the total variation of two distributions: the lowest probability of a flip under any common noise."""
    return min(1.0, float(np.abs(p - q).sum() / 2))


def flip_probability(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Return the probability that common Gumbel noise gives different tokens under two distributions p and q.

    Both give i if no j has g_j − g_i > ln min(p_i/p_j, q_i/q_j). Because exp(−g) is exponential, this has probability
    1/D_i with D_i = Σ_j max(p_j/p_i, q_j/q_i). With r = q/p the maximum is q_j/q_i if r_j > r_i. Hence
    p_i D_i = 1 + T_i/r_i with T_i = Σ_(r_j > r_i) p_j (r_j − r_i), and

        1 − Σ_i 1/D_i = Σ_i p_i T_i/(r_i + T_i).

    All terms are positive, so nothing cancels, and equal distributions give exactly 0. One running sum over the sorted
    r gives T. The result lies between the total variation t and 2t/(1 + t).
    """
    alive = p > _LEAST
    ratio = q[alive] / p[alive]
    order = np.argsort(ratio)
    r, mass = ratio[order], p[alive][order]
    # mass_above[i] = Σ_(j > i) p_j. A token that only q can draw has r = ∞ and p_j r_j = q_j.
    mass_above = mass[::-1].cumsum()[::-1][1:]
    above = np.full(len(r), q[~alive].sum())
    above[:-1] += (np.diff(r) * mass_above)[::-1].cumsum()[::-1]
    lost = np.divide(above, r + above, out=np.zeros_like(above), where=above > 0)
    return min(1.0, float((mass * lost).sum()))
