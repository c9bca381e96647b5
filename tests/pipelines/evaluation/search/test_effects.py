"""Effects of single treatments against measurements of whole variants, and overlaps in models where they are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunescope.pipelines.core.errors import ComputationError
from prunescope.pipelines.evaluation.search import effects as effects_module
from prunescope.pipelines.evaluation.search.effects import BATCH_ITEMS, EffectEngine, Effects, ratio_to
from prunescope.pipelines.evaluation.search.items import Item
from prunescope.pipelines.evaluation.search.journal import Journal
from prunescope.pipelines.evaluation.search.menu import KEEP, Menu
from prunescope.pipelines.evaluation.search.output_kl import DenseOutput
from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.metrics.output_head import OutputHead
from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.pruning.variant import Variant
from tests.pipelines.evaluation.search.engine import items_of, menu_of, swaps_of
from tests.pipelines.evaluation.search.planted import cancelling_decoder

# Pre-norm, sandwich norms with a cap, parallel sublayers, transposed matrices, post-norm, and experts.
ARCHITECTURES = ("llama", "gemma3_text", "gpt_neox", "gpt2", "olmo2", "mixtral")
CONTEXTS = {
    "drops and masks": {"attn.0": "drop", "mlp.0": "magnitude-50", "mlp.1": "drop", "attn.2": "magnitude-30"},
    "masks": {"attn.0": "magnitude-50", "mlp.2": "magnitude-30"},
}
TREATMENTS = ("magnitude-30", "magnitude-50", "drop")


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


def test_the_dense_model_has_no_effect_at_all(tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder("llama")
    own, items = menu_of(decoder, "drop"), items_of(decoder)
    found = EffectEngine(decoder, own, items).measure([("mlp.1", KEEP), ("mlp.1", "drop")])
    assert not found.kl[:, 0].any()
    assert (found.kl[:, 1] > 0).all()
    assert not np.array(WholeMeasurement(decoder, items).measure(Variant())).any()


def test_shifts_that_cancel_have_an_overlap_of_minus_one_and_their_pair_the_kl_of_the_second_order(
    tmp_path: Path,
) -> None:
    decoder = cancelling_decoder(tmp_path)
    own, items = menu_of(decoder, "magnitude-50", "drop"), items_of(decoder)
    swaps = [(label, "drop") for label in ("mlp.0", "mlp.1", "mlp.2", "attn.0")]
    found, whole = EffectEngine(decoder, own, items).measure(swaps), WholeMeasurement(decoder, items)
    costs = found.kl.mean(axis=0)
    assert found.kl_overlap.diagonal() == pytest.approx(np.ones(4), abs=1e-6)
    assert found.kl_overlap == pytest.approx(found.kl_overlap.T)
    assert found.kl_overlap[0, 1] < -0.99
    assert found.cos_overlap[0, 1] < -0.99
    pair = whole.measure(own.variant(dict(swaps[:2])))[0].mean()
    assert pair < 0.02 * costs[:2].sum()
    for first, second in ((0, 2), (1, 2), (0, 3), (2, 3)):
        pair = whole.measure(own.variant(dict([swaps[first], swaps[second]])))[0].mean()
        cross = 2 * found.kl_overlap[first, second] * np.sqrt(costs[first] * costs[second])
        # The overlap rests on sixteen drawn tokens a position.
        assert pair == pytest.approx(costs[[first, second]].sum() + cross, rel=0.15), (first, second)


def test_drawn_tokens_give_the_covariances_of_logit_shifts_under_the_dense_softmax() -> None:
    """All tokens share most of their weight row, which moves no probability."""
    generator = torch.Generator().manual_seed(0)
    weight, streams, first, second = (torch.randn(rows, 16, generator=generator) for rows in (90, 600, 600, 600))
    head = OutputHead(weight + 4)
    second += first
    output = DenseOutput(streams, head)
    directions = effects_module._drawn_directions(output, head, 0)
    drawn = [(directions @ move[:, :, None])[..., 0] for move in (first, second)]
    p = torch.softmax(head.logits(streams).double(), dim=-1)
    dz = [(move @ head.weight.T).double() for move in (first, second)]
    centred = [z - (p * z).sum(dim=-1, keepdim=True) for z in dz]
    for one, other in ((0, 0), (0, 1), (1, 1)):
        truth = float((p * centred[one] * centred[other]).sum(dim=-1).mean())
        assert float((drawn[one] * drawn[other]).mean()) == pytest.approx(truth, rel=0.1)


def test_overlaps_do_not_depend_on_the_other_swaps_and_repeat_for_a_seed(
    tiny_decoder: Callable[[str], Decoder],
) -> None:
    decoder = tiny_decoder("llama")
    own, items = menu_of(decoder, "magnitude-50", "drop"), items_of(decoder)
    swaps = swaps_of(own)
    whole, again, other = (EffectEngine(decoder, own, items, seed).measure(swaps).kl_overlap for seed in (0, 0, 1))
    part = EffectEngine(decoder, own, items, 0).measure(swaps[:3]).kl_overlap
    assert whole.tobytes() == again.tobytes()
    assert part == pytest.approx(whole[:3, :3], abs=1e-5)
    assert np.abs(other - whole).max() > 1e-3


def test_a_treatment_stops_once_its_ratio_is_known_and_a_sublayers_first_never(
    tiny_decoder: Callable[[str], Decoder],
) -> None:
    decoder = tiny_decoder("llama")
    own, items = menu_of(decoder, "magnitude-49", "magnitude-50", "drop"), items_of(decoder, 12, 60)
    swaps = [("mlp.1", "magnitude-50"), ("mlp.1", "magnitude-49"), ("mlp.1", "drop"), ("attn.1", "drop")]
    found = EffectEngine(decoder, own, items).measure(swaps)
    seen = np.isfinite(found.kl).sum(axis=0)
    assert found.reference.tolist() == [0, 0, 0, 3]
    assert seen[0] == seen[3] == 12
    assert seen[1] == 4  # nearly the same mask
    means, errors = found.mean(found.kl)
    truth = WholeMeasurement(decoder, items)
    for index, (label, treatment) in enumerate(swaps):
        values = truth.measure(own.variant({label: treatment}))[0]
        assert means[index] == pytest.approx(values.mean(), abs=3 * errors[index] + 1e-3 * values.mean())


def synthetic(seen: int) -> tuple[Effects, np.ndarray]:
    """Return effects of which the second stops after some items, and what it would be on all."""
    generator = np.random.default_rng(3)
    reference = generator.lognormal(0, 1.0, 40)
    other = 2.5 * reference * generator.lognormal(0, 0.05, 40)
    kl = np.stack([reference, np.where(np.arange(40) < seen, other, np.nan)], axis=1)
    return Effects((("mlp.0", "a"), ("mlp.0", "b")), kl, kl, np.eye(2), np.eye(2), np.array([0, 0])), other


def test_means_of_swaps_on_all_items_are_their_own() -> None:
    effects, other = synthetic(40)
    means, errors = effects.mean(effects.kl)
    assert means[0] == effects.kl[:, 0].mean()
    assert means[1] == other.mean()
    assert errors == pytest.approx(effects.kl.std(axis=0, ddof=1) / np.sqrt(40))


@pytest.mark.parametrize("seen", [4, 8, 20])
def test_means_of_swaps_on_few_items_follow_their_sublayers_reference(seen: int) -> None:
    effects, other = synthetic(seen)
    means, errors = effects.mean(effects.kl)
    ratio, error = ratio_to(other[:seen], effects.kl[:seen, 0])
    assert abs(ratio - 2.5) < 3 * error
    assert means[1] == ratio * effects.kl[:, 0].mean()
    assert abs(means[1] - other.mean()) < 3 * error * effects.kl[:, 0].mean()
    # Far closer than the mean of the items that were seen.
    assert abs(means[1] - other.mean()) < abs(other[:seen].mean() - other.mean()) / 3
    assert errors[1] > errors[0]


def test_there_is_no_ratio_to_a_reference_of_zeros() -> None:
    assert np.isnan(ratio_to(np.ones(3), np.zeros(3))).all()


def test_weights_that_give_nan_are_refused_by_name(tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder("llama")
    own = menu_of(decoder, "magnitude-50")
    broken = own.weights("mlp.1", "magnitude-50")
    name = next(iter(broken))
    values = {each: change for each, change in broken.items() if each != name}

    class Broken:
        sublayers, options = own.sublayers, own.options
        variant = staticmethod(own.variant)

        @staticmethod
        def weights(sublayer: str, treatment: str) -> object:
            changed = type(broken[name]).__new__(type(broken[name]))
            changed.__dict__.update(broken[name].__dict__)
            object.__setattr__(changed, "weight", lambda dense: torch.full_like(dense, torch.nan))
            return {**values, name: changed}

    with pytest.raises(ComputationError, match=r"mlp\.1 with magnitude-50: NaN"):
        EffectEngine(decoder, Broken(), items_of(decoder)).measure([("mlp.1", "magnitude-50")])  # type: ignore[arg-type]


def test_many_shifts_are_measured_in_parts_with_the_same_numbers(
    tiny_decoder: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = tiny_decoder("llama")
    own, items = menu_of(decoder, "magnitude-50", "drop"), items_of(decoder)
    whole = EffectEngine(decoder, own, items).measure(swaps_of(own))
    monkeypatch.setattr(effects_module, "_MAX_SHIFT_BYTES", 5 * 16 * 20 * decoder.width)
    parts = EffectEngine(decoder, own, items).measure(swaps_of(own))
    assert parts.kl == pytest.approx(whole.kl, rel=1e-4)
    assert parts.kl_overlap == pytest.approx(whole.kl_overlap, abs=1e-4)


def test_an_item_is_measured_at_its_own_positions_alone(tiny_decoder: Callable[[str], Decoder]) -> None:
    decoder = tiny_decoder("llama")
    own = menu_of(decoder, "drop")
    (item,) = items_of(decoder, 1)
    single = [Item(f"at-{first}", item.tokens[: first + 1], first) for first in range(item.first, len(item.tokens))]
    found = EffectEngine(decoder, own, [item, *single]).measure([("attn.1", "drop")]).kl[:, 0]
    assert found[0] == pytest.approx(found[1:].mean(), rel=1e-3)


def test_an_interrupted_measurement_goes_on_at_its_batch(
    tiny_decoder: Callable[[str], Decoder], tmp_path: Path
) -> None:
    decoder, journal = tiny_decoder("llama"), Journal(tmp_path, "a")
    own = menu_of(decoder, "magnitude-40", "drop")
    items = [replace(item, id=f"{copy}-{item.id}") for copy in range(2) for item in items_of(decoder, 3, 30)]
    whole, batches = EffectEngine(decoder, own, items).measure(swaps_of(own)), list[int]()

    class Interrupted(EffectEngine):
        def _measured(self, *arguments: Any) -> Any:
            batches.append(arguments[3])
            if len(batches) == 2:
                raise KeyboardInterrupt
            return super()._measured(*arguments)

    with pytest.raises(KeyboardInterrupt):
        Interrupted(decoder, own, items, journal=journal).measure(swaps_of(own))
    again = Interrupted(decoder, own, items, journal=journal).measure(swaps_of(own))
    assert batches == [0, BATCH_ITEMS, BATCH_ITEMS]
    for name in ("kl", "one_minus_cos", "kl_overlap", "cos_overlap"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    # In an allocation the same swaps are measured on every batch.
    around = {"mlp.0": "magnitude-40"}
    inside = EffectEngine(decoder, own, items).measure(swaps_of(own), around)
    kept = EffectEngine(decoder, own, items, journal=journal).measure(swaps_of(own), around)
    np.testing.assert_array_equal(kept.kl, inside.kl)
