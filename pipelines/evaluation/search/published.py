"""Published recipes at the budget of a search, to compare its results with. Imports no torch."""

import json
import math
from collections.abc import Iterator, Mapping

from prunescope.pipelines.recipes import MaskingRecipe

# A mask takes one bit per weight; a weight takes 16.
_MASK_SHARE = 1 / 16
# Scale and zero point take 16 bits each per 128 codes.
_SCALE_BITS = 32 / 128
_MAX_BITS = 8
_OWL_LAMBDA = float(MaskingRecipe.model_fields["owl_lambda"].default)


def published_recipes(sizes: Mapping[str, float], share: float, budget: str) -> list[str]:
    """Return published recipes that remove at least a share, and hardly more if their form allows it.

    They are: Wanda, also with OWL's layer sparsities, RIA and SparseGPT in all layers; the smallest sufficient drop of
    attention, MLP or whole blocks; and drops of attention for about half of the share with SparseGPT for the rest. The
    budget `bytes` adds GPTQ. The budget `milliseconds` has only drops.

    `sizes` are weights or milliseconds of each sublayer, by label. The result is names or mappings for `parse_recipe`.
    """
    return [*_masks(share, budget), *_drops(sizes, share), *_composed(sizes, share, budget), *_codes(share, budget)]


def _masks(share: float, budget: str) -> Iterator[str]:
    sparsity = sparsity_for(share, budget)
    if sparsity is None:
        return
    for method in ("wanda", "ria", "sparsegpt"):
        yield _spelled(method, sparsity)
    if min(sparsity, 1 - sparsity) > _OWL_LAMBDA:
        yield _spelled("wanda", sparsity, "-owl")


def _drops(sizes: Mapping[str, float], share: float) -> Iterator[str]:
    total = sum(sizes.values())
    for method, units in _units(sizes).items():
        count = next((count for count in range(1, len(units)) if sum(units[:count]) >= share * total * (1 - 1e-12)), 0)
        if count:
            yield f"{method}-drop-{count}"


def _composed(sizes: Mapping[str, float], share: float, budget: str) -> Iterator[str]:
    total, units = sum(sizes.values()), _units(sizes)["attn"]
    count = max((count for count in range(len(units)) if sum(units[:count]) <= share * total / 2), default=0)
    left = total - sum(units[:count])
    sparsity = sparsity_for((share * total - (total - left)) / left, budget)
    if count and sparsity is not None and sparsity >= 0.01:
        yield f"attn-drop-{count}+sparsegpt-{100 * sparsity:g}"


def _codes(share: float, budget: str) -> Iterator[str]:
    bits = min(_MAX_BITS, math.floor(16 * (1 - share) - _SCALE_BITS))
    if budget == "bytes" and bits >= 2:
        yield f"gptq-{bits}bit"


def _units(sizes: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the sizes of droppable units, the smallest first, because it is not known here which ones go."""
    layers: dict[str, dict[str, float]] = {"attn": {}, "mlp": {}, "block": {}}
    for label, size in sizes.items():
        kind, _, layer = label.partition(".")
        layers[kind][layer] = size
        layers["block"][layer] = layers["block"].get(layer, 0) + size
    return {kind: sorted(own.values()) for kind, own in layers.items()}


def sparsity_for(share: float, budget: str) -> float | None:
    """Return the uniform sparsity, rounded up to 0.01 %, that removes a share; None if none does."""
    if budget == "milliseconds":
        return None
    sparsity = math.ceil(1e4 * (share + (_MASK_SHARE if budget == "bytes" else 0)) - 1e-6) / 1e4
    return sparsity if 0 < sparsity < 1 else None


def _spelled(method: str, sparsity: float, ending: str = "") -> str:
    name = f"{method}-{100 * sparsity:g}{ending}"
    if sparsity >= 0.01:
        return name
    return json.dumps({"name": name, "method": method, "sparsity": sparsity})
