"""Tests of the description of a model: every part is named, and the shares add up."""

from collections.abc import Callable

import polars as pl
import pytest

from prunescope.pipelines.models.decoder import Decoder
from prunescope.pipelines.models.describe import structure_rows

Load = Callable[[str], Decoder]


@pytest.mark.parametrize(
    ("architecture", "attn", "mlp", "order", "norm", "head"),
    [
        ("gemma2", "followed by post_attention_layernorm", "followed by post_feedforward_layernorm", "sequential",
         "rms_plus_one, eps 1e-06", "tied, cap 5"),
        ("bloom", "residual inside", "residual inside", "sequential", "layer, eps 1e-05", "tied"),
        ("falcon_h1", "multiplier 0.7 + multiplier 0.6", "plain", "sequential", "rms, eps 1e-05",
         "own weights, scale 0.5"),
        ("gptj", "plain", "plain", "parallel", "layer, eps 1e-05", "own weights, bias"),
    ],
)  # fmt: skip
def test_every_form_is_described(
    tiny_decoder: Load, architecture: str, attn: str, mlp: str, order: str, norm: str, head: str
) -> None:
    rows = {row["part"]: row for row in structure_rows(tiny_decoder(architecture)).iter_rows(named=True)}
    assert [rows[part]["form"] for part in ("attn.0", "mlp.0", "final norm", "head")] == [attn, mlp, norm, head]
    assert rows["attn.1"]["order"] == rows["mlp.2"]["order"] == order


def test_shares_add_up_and_experts_count_one_by_one(tiny_decoder: Load) -> None:
    frame = structure_rows(tiny_decoder("mixtral"))
    shares = frame.filter(pl.col("part") == "share")
    assert shares["share"].sum() == pytest.approx(1)
    total = frame.filter(pl.col("part") == "model")["parameters"].item()
    assert shares["parameters"].sum() == total
    mlps = frame.filter(pl.col("part").str.starts_with("mlp"))
    # Four experts of two matrices; the router stays as it is.
    assert mlps["matrices"].to_list() == [8, 8, 8]
    assert mlps["parameters"].to_list() == [4 * (2 * 96 * 64 + 64 * 96) + 4 * 64] * 3
    assert mlps["parameters"].sum() == shares.filter(pl.col("module") == "MLP")["parameters"].item()


def test_a_model_changed_by_its_cache_says_so(tiny_decoder: Load) -> None:
    (row,) = structure_rows(tiny_decoder("bamba")).filter(part="cache").rows(named=True)
    assert "layers.1.self_attn adds something else" in row["form"]
