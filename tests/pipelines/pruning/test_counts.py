"""Tests that every mask method keeps exactly the required number of weights, with ties and earlier masks."""

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.pruning.calibration.activation_moments import ActivationMoments
from prunescope.pipelines.pruning.masks import Mask
from prunescope.pipelines.pruning.methods import METHODS, MatrixContext, change_of, my_method
from prunescope.pipelines.recipes import KINDS, MaskingRecipe, MatrixRecipe, PythonRecipe
from tests.examples import examples

MASKS = [kind for kind in KINDS if issubclass(kind, MaskingRecipe)]
TYPES = (torch.float32, torch.float16, torch.bfloat16)


@st.composite
def weights(draw: st.DrawFn, multiple: int = 1) -> Tensor:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6)) * multiple
    # Few distinct values, as in quantized weights: most comparisons are ties.
    value = st.sampled_from([0.0, 0.5, -0.5, 1.0, -2.0])
    values = draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=draw(st.sampled_from(TYPES))).reshape(rows, columns)


def inputs_for(weight: Tensor) -> ActivationMoments:
    """Return channels of few sizes, the first one dead."""
    channels = weight.shape[1]
    inputs = ActivationMoments(channels)
    x = torch.randn(2 * channels + 3, channels, generator=torch.Generator().manual_seed(channels)).sign()
    x[:, 0] = 0
    inputs.update(x, with_gram=True)
    return inputs


def mask_by(kind: type[MaskingRecipe], weight: Tensor, kept: Mask | None = None, **fields: object) -> Tensor:
    """Return the mask of a recipe; one that goes block by block gets small blocks, the last of them smaller."""
    own: dict[str, object] = {"columns": 5} if "columns" in kind.model_fields else {}
    own |= {"code": Path(my_method.__file__).read_text(encoding="utf-8")} if kind is PythonRecipe else {}
    recipe = kind(name="r", **own, **fields)
    seen = MatrixContext("m", weight, weight, kept, inputs_for(weight), recipe.sparsity)
    change = change_of(seen, recipe)
    assert torch.isfinite(change.weight(weight)).all()
    assert bool((change.weight(weight)[~change.mask] == 0).all())
    return change.mask


def test_every_recipe_that_changes_matrices_has_its_method() -> None:
    matrix_recipes = {kind for kind in KINDS if issubclass(kind, MatrixRecipe)}
    assert set(METHODS) == matrix_recipes, (
        "add its function to METHODS at the end of its module in pipelines/pruning/methods/"
    )


@pytest.mark.parametrize("kind", MASKS)
def test_a_share_that_rounds_to_a_whole_row_is_refused(kind: type[MaskingRecipe]) -> None:
    with pytest.raises(InputError, match=r"sparsity 0\.95 of a group of 8 weights would drop all of them"):
        mask_by(kind, torch.randn(3, 8), sparsity=0.95, group="output")


@pytest.mark.parametrize("kind", MASKS)
@settings(max_examples=examples(25))
@given(weight=weights(), sparsity=st.floats(0.01, 0.99))
def test_a_row_keeps_exactly_its_count(kind: type[MaskingRecipe], weight: Tensor, sparsity: float) -> None:
    assume(round(sparsity * weight.shape[1]) < weight.shape[1])
    mask = mask_by(kind, weight, sparsity=sparsity, group="output")
    assert mask.sum(dim=1).tolist() == [weight.shape[1] - round(sparsity * weight.shape[1])] * len(weight)


@st.composite
def earlier_masks(draw: st.DrawFn, weight: Tensor) -> Tensor:
    bits = draw(st.lists(st.booleans(), min_size=weight.numel(), max_size=weight.numel()))
    return torch.tensor(bits).reshape(weight.shape)


@pytest.mark.parametrize(
    ("kind", "group"),
    [(kind, group) for kind in MASKS for group in kind.model_fields["group"].annotation.__args__ if group != "output"],
)
@settings(max_examples=examples(25))
@given(weight=weights(), sparsity=st.floats(0.01, 0.99), data=st.data())
def test_a_whole_matrix_keeps_exactly_its_count(
    kind: type[MaskingRecipe], group: str, weight: Tensor, sparsity: float, data: st.DataObject
) -> None:
    assume(round(sparsity * weight.numel()) < weight.numel())
    mask = mask_by(kind, weight, sparsity=sparsity, group=group)
    assert int((~mask).sum()) == round(sparsity * weight.numel())
    kept = data.draw(earlier_masks(weight))
    mask = mask_by(kind, weight.masked_fill(~kept, 0), kept, sparsity=sparsity, group=group)
    assert not bool((mask & ~kept).any())
    assert int((~mask).sum()) == max(round(sparsity * weight.numel()), int((~kept).sum()))


@pytest.mark.parametrize("kind", MASKS)
@settings(max_examples=examples(25))
@given(weight=weights(multiple=4), keep=st.integers(1, 3))
def test_a_group_of_four_keeps_exactly_n(kind: type[MaskingRecipe], weight: Tensor, keep: int) -> None:
    mask = mask_by(kind, weight, keep=keep, block=4)
    assert bool((mask.reshape(-1, 4).sum(dim=1) == keep).all())


@pytest.mark.parametrize("kind", MASKS)
@settings(max_examples=examples(25))
@given(weight=weights(multiple=4), sparsity=st.floats(0.01, 0.99), data=st.data())
def test_weights_of_an_earlier_mask_stay_removed_and_count(
    kind: type[MaskingRecipe], weight: Tensor, sparsity: float, data: st.DataObject
) -> None:
    assume(round(sparsity * weight.shape[1]) < weight.shape[1])
    kept = data.draw(earlier_masks(weight))
    pruned = weight.masked_fill(~kept, 0)
    mask = mask_by(kind, pruned, kept, sparsity=sparsity, group="output")
    assert not bool((mask & ~kept).any())
    most = weight.shape[1] - round(sparsity * weight.shape[1])
    assert mask.sum(dim=1).tolist() == kept.sum(dim=1).clamp(max=most).tolist()
    groups = mask_by(kind, pruned, kept, keep=2, block=4).reshape(-1, 4)
    assert not bool((groups & ~kept.reshape(-1, 4)).any())
    assert groups.sum(dim=1).tolist() == kept.reshape(-1, 4).sum(dim=1).clamp(max=2).tolist()


@pytest.mark.parametrize("kind", MASKS)
def test_a_share_too_small_for_one_weight_drops_none(kind: type[MaskingRecipe]) -> None:
    assert mask_by(kind, torch.randn(3, 8), sparsity=0.01, group="output").all()
