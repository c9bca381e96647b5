"""KL at the output for shifts of the final stream, against the softmax of both sides in float64."""

import pytest
import torch
from torch import Tensor

from prunescope.pipelines.evaluation.search import output_kl
from prunescope.pipelines.evaluation.search.output_kl import DenseOutput
from prunescope.pipelines.metrics.output_head import FinalNorm, OutputHead
from tests.pipelines.metrics.reference import logits_reference, norm_reference

ROWS, WIDTH, VOCABULARY = 67, 24, 211


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, GAIN = normal(VOCABULARY, WIDTH) * 0.7, 1 + 0.2 * normal(WIDTH, seed=1)
HEADS = {
    "bare": OutputHead(WEIGHT),
    "rms": OutputHead(WEIGHT, norm=FinalNorm("rms", 1e-5, GAIN)),
    "layer-bias": OutputHead(WEIGHT, bias=normal(VOCABULARY, seed=2), norm=FinalNorm("layer", 1e-5, GAIN, GAIN / 3)),
    "gemma": OutputHead(WEIGHT, norm=FinalNorm("rms_plus_one", 1e-6, 0.1 * GAIN), cap=5.0),
    "scaled": OutputHead(WEIGHT, norm=FinalNorm("rms", 1e-5, GAIN), scale=0.3),
}


def reference(streams: Tensor, shift: Tensor, head: OutputHead) -> Tensor:
    before, after = streams.double(), streams.double() + shift.double()
    log_p, log_q = (torch.log_softmax(logits_reference(norm_reference(h, head), head), dim=-1) for h in (before, after))
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@pytest.fixture(params=[2**18, 50 * ROWS, 1], ids=["whole", "blocks", "single"], autouse=True)
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sum the vocabulary at once, in blocks of which the last is smaller, or token by token."""
    monkeypatch.setattr(output_kl, "BLOCK_LOGITS", request.param)


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> OutputHead:
    return HEADS[request.param]


def kl(streams: Tensor, head: OutputHead, shift: Tensor) -> Tensor:
    """Return the KL of a kept softmax, which is that of one computed again."""
    kept, _ = DenseOutput(streams, head, keeps_softmax=True).kl(shift)
    again, _ = DenseOutput(streams, head).kl(shift)
    torch.testing.assert_close(again, kept, rtol=1e-4, atol=1e-12, equal_nan=True)
    return kept


@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.3, 3.0])
def test_the_kl_is_that_of_the_softmax_in_float64_for_shifts_of_any_size(head: OutputHead, size: float) -> None:
    streams, move = normal(ROWS, WIDTH, seed=3), normal(ROWS, WIDTH, seed=4)
    shift = size * move * streams.norm(dim=-1, keepdim=True) / move.norm(dim=-1, keepdim=True)
    found = kl(streams, head, shift)
    assert (found >= 0).all()
    torch.testing.assert_close(found, reference(streams, shift, head), rtol=1e-3, atol=0)


def test_a_shift_of_zero_has_no_kl_at_all(head: OutputHead) -> None:
    streams = normal(ROWS, WIDTH, seed=3)
    nats, move = DenseOutput(streams, head).kl(torch.zeros_like(streams))
    assert not nats.any()
    assert not move.any()


def test_rows_whose_exponentials_overflow_leave_the_small_ones_beside_them_exact() -> None:
    head, streams, shift = HEADS["bare"], normal(ROWS, WIDTH, seed=3), 1e-4 * normal(ROWS, WIDTH, seed=4)
    shift[::7] *= 1e6
    truth = reference(streams, shift, head)
    assert truth[::7].min() > 50
    found = kl(streams, head, shift)
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=0)


def test_ties_of_all_logits_and_of_some_have_finite_kls() -> None:
    weight = WEIGHT.clone()
    weight[:100] = weight[0]
    streams = normal(ROWS, WIDTH, seed=3)
    streams[0] = 0  # all logits are equal
    shift = 0.1 * normal(ROWS, WIDTH, seed=4)
    found = kl(streams, OutputHead(weight), shift)
    torch.testing.assert_close(found, reference(streams, shift, OutputHead(weight)), rtol=1e-3, atol=0)


def test_logits_that_all_move_alike_change_no_probability() -> None:
    weight = torch.cat([WEIGHT, torch.ones(VOCABULARY, 1)], dim=1)
    streams, shift = normal(ROWS, WIDTH + 1, seed=3), torch.zeros(ROWS, WIDTH + 1)
    shift[:, -1] = 7.0
    found = kl(streams, OutputHead(weight), shift)
    assert (found >= 0).all()
    assert found.max() < 1e-10


def test_a_broken_row_is_nan_and_no_other() -> None:
    shift = 0.1 * normal(ROWS, WIDTH, seed=4)
    shift[5, 3] = torch.nan
    found = kl(normal(ROWS, WIDTH, seed=3), HEADS["rms"], shift)
    assert found.isnan().nonzero().flatten().tolist() == [5]
