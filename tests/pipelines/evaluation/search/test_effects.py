"""Effects of single treatments against measurements of whole variants, and their means over items."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.core.progress import Silent
from prunescope.pipelines.evaluation.search import effects as effects_module
from prunescope.pipelines.evaluation.search.effects import BATCH_ITEMS, EffectEngine, Effects
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Menu
from prunescope.pipelines.evaluation.search.whole import Means, WholeMeasurement
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.weight_delta import WeightDelta
from tests.pipelines.evaluation.search.engine import items_of, menu_of, swaps_of

# Pre-norm, sandwich norms with a cap, parallel sublayers, transposed matrices, post-norm, and experts.
ARCHITECTURES = ("llama", "gemma3_text", "gpt_neox", "gpt2", "olmo2", "mixtral")
CONTEXTS = {
    "drops and masks": {"attn.0": "drop", "mlp.0": "magnitude-50", "mlp.1": "drop", "attn.2": "magnitude-30"},
    "masks": {"attn.0": "magnitude-50", "mlp.2": "magnitude-30"},
}
TREATMENTS = ("magnitude-30", "magnitude-50", "drop")


class Counter(Silent):
    """The steps that were announced, and those that were made."""

    total = steps = 0

    def start(self, task: str, total: int, tokens: int = 0) -> None:
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.steps += amount


@pytest.fixture(scope="module", params=ARCHITECTURES)
def menu(request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]) -> tuple[Decoder, Menu]:
    decoder = tiny_decoder(request.param)
    return decoder, menu_of(decoder, *TREATMENTS)


@pytest.mark.third(1)
def test_an_effect_is_that_of_the_whole_model_with_that_sublayer_changed(menu: tuple[Decoder, Menu]) -> None:
    decoder, own = menu
    items, swaps = items_of(decoder), swaps_of(own)
    found, whole = EffectEngine(decoder, own, items).measure(swaps), WholeMeasurement(decoder, items)
    assert len(swaps) == 18
    for index, (label, treatment) in enumerate(swaps):
        kl, cosines = whole.measure(own.variant({label: treatment}))
        assert found.kl[:, index] == pytest.approx(kl, rel=1e-3), (label, treatment)
        assert found.one_minus_cos[:, index] == pytest.approx(cosines, rel=1e-3), (label, treatment)


@pytest.mark.third(0)
@pytest.mark.parametrize("context", CONTEXTS)
def test_in_an_allocation_a_swap_is_that_of_the_whole_model_with_both(menu: tuple[Decoder, Menu], context: str) -> None:
    """Swap to another mask, to nothing, and back to the dense sublayer, also where it was dropped."""
    decoder, own = menu
    around, items = CONTEXTS[context], items_of(decoder)
    swaps = [(label, each) for label in own.sublayers for each in (around.get(label, KEEP), KEEP, *TREATMENTS)]
    swaps = list(dict.fromkeys(swaps))
    found, whole = EffectEngine(decoder, own, items).measure(swaps, around, 2), WholeMeasurement(decoder, items)
    assert found.kl.shape == (2, len(swaps))
    for index, (label, treatment) in enumerate(swaps):
        kl, cosines = whole.measure(own.variant(around | {label: treatment}))
        assert found.kl[:, index] == pytest.approx(kl[:2], rel=1e-3), (label, treatment)
        assert found.one_minus_cos[:, index] == pytest.approx(cosines[:2], rel=1e-3), (label, treatment)


def test_the_dense_model_has_no_effect_at_all(decoder: Decoder) -> None:
    own, items = menu_of(decoder, "drop"), items_of(decoder)
    found = EffectEngine(decoder, own, items).measure([("mlp.1", KEEP), ("mlp.1", "drop")])
    assert not found.kl[:, 0].any()
    assert (found.kl[:, 1] > 0).all()


def test_a_treatment_stops_once_its_ratio_is_known_and_a_sublayers_first_never(decoder: Decoder) -> None:
    own, items = menu_of(decoder, "magnitude-49", "magnitude-50", "drop"), items_of(decoder, 12, 60)
    swaps = [("mlp.1", "magnitude-50"), ("mlp.1", "magnitude-49"), ("mlp.1", "drop"), ("attn.1", "drop")]
    found = EffectEngine(decoder, own, items).measure(swaps)
    seen = np.isfinite(found.kl).sum(axis=0)
    assert found.reference.tolist() == [0, 0, 0, 3]
    assert seen[0] == seen[3] == 12
    assert seen[1] == 4  # nearly the same mask
    means, errors = found.mean(found.kl)
    whole = WholeMeasurement(decoder, items)
    values = np.array([whole.measure(own.variant(dict([swap])))[0] for swap in swaps])
    truth = np.exp(np.log((values + values.mean(axis=1, keepdims=True) / 1000) / 1.001).mean(axis=1))
    assert (np.abs(means - truth) <= 3 * errors + 1e-3 * truth).all()
    assert means[[0, 3]] == pytest.approx(truth[[0, 3]], rel=1e-3)


def synthetic(seen: int = 40, swaps: int = 8) -> tuple[Effects, Means, Means]:
    """Return effects of sublayers, all of known sizes times what an item adds to all, and these sizes and items.

    The last swap, of the first one's sublayer, stops after some items.
    """
    generator = np.random.default_rng(3)
    sizes = np.append(generator.lognormal(0, 1.0, swaps), 2.5)
    sizes[0] = 1.0
    items = generator.lognormal(0, 1.5, 40)
    kl = items[:, None] * sizes * generator.lognormal(0, 0.1, (40, swaps + 1))
    kl[seen:, -1] = np.nan
    names = tuple((f"mlp.{number % swaps}", "a" if number < swaps else "b") for number in range(swaps + 1))
    return Effects(names, kl, kl / 2, np.arange(swaps + 1) % swaps), sizes, items


def test_every_item_counts_the_same_in_a_mean() -> None:
    effects, sizes, items = synthetic()
    means, errors = effects.mean(effects.kl)
    relative = np.log(means / sizes)
    assert relative == pytest.approx(np.full(9, relative.mean()), abs=0.08)
    assert np.log(effects.kl.mean(axis=0) / sizes).std() > 2 * relative.std()
    assert items.max() > 10 * np.median(items)
    logs = np.log((effects.kl + effects.kl.mean(axis=0) / 1000) / 1.001)
    assert means == pytest.approx(np.exp(logs.mean(axis=0)))
    assert errors == pytest.approx(means * logs.std(axis=0, ddof=1) / np.sqrt(40))
    assert effects.mean(effects.one_minus_cos)[0] == pytest.approx(means / 2)
    assert (effects.spread * means[:8]).sum() == pytest.approx(effects.kl[:, :8].mean(axis=0).sum())
    even = np.tile(sizes, (5, 1))
    same = Effects(effects.swaps, even, even, effects.reference)
    assert same.mean(even)[0] == pytest.approx(sizes)
    assert same.spread == pytest.approx(1)


def test_an_effect_follows_no_other_one_and_no_item_next_to_zero() -> None:
    effects, *_ = synthetic()
    few = Effects(effects.swaps[:3], effects.kl[:, :3], effects.kl[:, :3], effects.reference[:3])
    whole, part = effects.mean(effects.kl)[0], few.mean(few.kl)[0]
    assert part.tolist() == whole[:3].tolist()
    kl = effects.kl.copy()
    kl[np.abs(kl[:, 1] - np.median(kl[:, 1])).argmin(), 1] = 0.0
    without = Effects(effects.swaps, kl, kl, effects.reference).mean(kl)[0]
    assert np.abs(np.log(without / whole)).max() < 0.2
    nothing = np.column_stack([kl, np.zeros(40)])
    last = Effects((*effects.swaps, ("attn.0", "a")), nothing, nothing, np.append(effects.reference, 9))
    assert last.mean(nothing)[0][-1] == pytest.approx(0, abs=1e-300)
    assert np.isfinite(last.mean(nothing)).all()
    none = Effects(effects.swaps[:1], np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(1, dtype=int))
    assert (float(none.mean(none.kl)[0][0]), none.spread) == (pytest.approx(0, abs=1e-300), 1.0)


@pytest.mark.parametrize(
    ("values", "reference", "is_known"),
    [
        ([1.0, 1.1, 1.0, 1.1], [2.0, 2.1, 2.1, 2.0], True),
        ([1.0, 4.0, 0.5, 1.0], [2.0, 2.0, 2.0, 2.0], False),
        ([0.0] * 4, [0.0] * 4, False),
        ([1.0], [1.0], False),
        # One item outweighs the others in both, and says nothing of their ratio on these.
        ([0.01, 0.04, 0.08, 5.0], [0.02, 0.02, 0.02, 5.0], False),
    ],
)
def test_a_ratio_is_known_by_most_items(values: list[float], reference: list[float], is_known: bool) -> None:
    assert effects_module._is_known(np.array(values), np.array(reference)) is is_known


@pytest.mark.parametrize("seen", [4, 8, 20])
def test_means_of_swaps_on_few_items_follow_their_sublayers_reference(seen: int) -> None:
    effects, *_ = synthetic(seen)
    whole, *_ = synthetic()
    means, errors = effects.mean(effects.kl)
    ratios = np.log(effects.kl[:seen, -1] / effects.kl[:seen, 0])
    error = ratios.std(ddof=1) / np.sqrt(seen)
    assert abs(np.log(means[-1] / means[0]) - np.log(2.5)) < 4 * error
    assert np.log(means[-1] / means[0]) == pytest.approx(ratios.mean(), abs=0.05)
    assert means[:-1] == pytest.approx(whole.mean(whole.kl)[0][:-1])
    assert errors[-1] / means[-1] > errors[0] / means[0]
    # Far closer than the mean of the items that were seen.
    alone = np.log(effects.kl[:seen, -1]).mean() - np.log(effects.kl[:, 0]).mean()
    assert abs(np.log(means[-1] / means[0]) - np.log(2.5)) < abs(alone - np.log(2.5)) / 3


def test_weights_that_give_nan_are_refused_by_name(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    own = menu_of(decoder, "magnitude-50")
    broken = {
        name: WeightDelta.valued(torch.full_like(matrix.weight, torch.nan))
        for name, matrix in own.sublayers["mlp.1"].matrices.items()
    }
    monkeypatch.setattr(own, "weights", lambda *_: broken)
    with pytest.raises(ComputationError, match=r"mlp\.1 with magnitude-50: NaN"):
        EffectEngine(decoder, own, items_of(decoder)).measure([("mlp.1", "magnitude-50")])


def test_memory_holds_a_fixed_number_of_treatments_however_many_there_are(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, local = list[int](), list[int]()
    own, items = menu_of(decoder, "magnitude-50", "drop"), items_of(decoder)
    whole = EffectEngine(decoder, own, items).measure(swaps_of(own))
    inside = EffectEngine(decoder, own, items).measure(swaps_of(own), {"mlp.0": "drop"})
    # Local shifts of a batch's items, and one item's shifts in front of a layer, in it and behind it.
    bytes_of_one = decoder.width * max(len(item.tokens) for item in items) * (4 * min(len(items), BATCH_ITEMS) + 24)
    monkeypatch.setattr(effects_module, "_MAX_SHIFT_BYTES", 5 * bytes_of_one)

    class Counted(IsolatedEffect):
        def shifts(self, dense: Any, moved: Any) -> Any:
            at_once.append(len(moved))
            local.append(0)
            return super().shifts(dense, moved)

    class Engine(EffectEngine):
        def _local_shifts(self, *arguments: Any) -> Any:
            local[-1] += 1
            return super()._local_shifts(*arguments)

    monkeypatch.setattr(effects_module, "IsolatedEffect", Counted)
    local.append(0)
    parts = Engine(decoder, own, items).measure(swaps_of(own))
    assert parts.kl == pytest.approx(whole.kl, rel=1e-4)
    parts = Engine(decoder, own, items).measure(swaps_of(own), {"mlp.0": "drop"})
    assert parts.kl == pytest.approx(inside.kl, rel=1e-4)
    assert set(at_once) == {5, len(swaps_of(own)) % 5}
    assert max(local) == 5


@pytest.mark.parametrize("is_stored", [False, True])
def test_progress_ends_at_its_total_also_where_treatments_stop_early(
    decoder: Decoder, tmp_path: Path, is_stored: bool
) -> None:
    journal = Journal(tmp_path, "a")
    own, items = menu_of(decoder, "magnitude-49", "magnitude-50"), items_of(decoder, 12, 60)
    engine, progress = EffectEngine(decoder, own, items, journal), Counter()
    if is_stored:
        engine.measure(swaps_of(own))
    found = engine.measure(swaps_of(own), progress=progress)
    assert np.isnan(found.kl).any()
    assert progress.steps == progress.total == len(items) * len(swaps_of(own))


def test_an_item_is_measured_at_its_own_positions_alone(decoder: Decoder) -> None:
    own = menu_of(decoder, "drop")
    (item,) = items_of(decoder, 1)
    single = [Item(f"at-{first}", item.tokens[: first + 1], first) for first in range(item.first, len(item.tokens))]
    found = EffectEngine(decoder, own, [item, *single]).measure([("attn.1", "drop")]).kl[:, 0]
    assert found[0] == pytest.approx(found[1:].mean(), rel=1e-3)


def test_an_interrupted_measurement_goes_on_at_its_batch(decoder: Decoder, tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    own = menu_of(decoder, "magnitude-40", "drop")
    items = [replace(item, id=f"{copy}-{item.id}") for copy in range(2) for item in items_of(decoder, 3, 30)]
    whole, batches = EffectEngine(decoder, own, items).measure(swaps_of(own)), list[int]()

    class Interrupted(EffectEngine):
        def _batch(self, part: slice, *arguments: Any) -> Any:
            batches.append(part.start)
            if len(batches) == 2:
                raise KeyboardInterrupt
            return super()._batch(part, *arguments)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(decoder, own, items, journal=journal).measure(swaps_of(own))
    again = Interrupted(decoder, own, items, journal=journal).measure(swaps_of(own))
    assert batches == [0, BATCH_ITEMS, BATCH_ITEMS]
    for name in ("kl", "one_minus_cos"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    # In an allocation the same swaps are measured on every batch.
    around = {"mlp.0": "magnitude-40"}
    inside = EffectEngine(decoder, own, items).measure(swaps_of(own), around)
    kept = EffectEngine(decoder, own, items, journal=journal).measure(swaps_of(own), around)
    np.testing.assert_array_equal(kept.kl, inside.kl)
