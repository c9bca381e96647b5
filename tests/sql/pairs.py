"""The area under the ROC curve by its definition, and its uncertainty over prompts by numerical derivatives.

Slow and independent of how the views compute it.
"""

import numpy as np
from scipy import stats


def auc_of_pairs(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> float:
    """The AUC by its definition over all pairs, each prompt (row) counted with its weight."""
    weight = np.broadcast_to(weights[:, None], scores.shape)
    positive, negative = scores[is_positive][:, None], scores[~is_positive][None, :]
    pair = weight[is_positive][:, None] * weight[~is_positive][None, :]
    return float((pair * ((positive > negative) + 0.5 * (positive == negative))).sum() / pair.sum())


def half_width(scores: np.ndarray, is_positive: np.ndarray) -> float:
    """95 % over prompts, from the numerical derivative of the AUC by each prompt's weight."""
    prompts, delta = len(scores), 1e-5
    influence = []
    for prompt in range(prompts):
        nudge = delta * np.eye(prompts)[prompt]
        more, less = (auc_of_pairs(scores, is_positive, np.ones(prompts) + sign * nudge) for sign in (1, -1))
        influence.append((more - less) / (2 * delta))
    return float(stats.t.ppf(0.975, prompts - 1) * np.sqrt(prompts / (prompts - 1) * np.square(influence).sum()))
