"""Tests of the description of a model: every part is named, and the shares add up."""

from pathlib import Path

import polars as pl
import pytest

from prunescope.pipelines.models.describe import structure_rows
from prunescope.pipelines.models.load import load_decoder
from tests.tiny_models import save_tiny


def described(folder: Path, architecture: str) -> pl.DataFrame:
    return structure_rows(load_decoder(save_tiny(folder / architecture, architecture)))


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
    tmp_path: Path, architecture: str, attn: str, mlp: str, order: str, norm: str, head: str
) -> None:
    rows = {row["part"]: row for row in described(tmp_path, architecture).iter_rows(named=True)}
    assert [rows[part]["form"] for part in ("attn.0", "mlp.0", "final norm", "head")] == [attn, mlp, norm, head]
    assert rows["attn.1"]["order"] == rows["mlp.2"]["order"] == order


def test_shares_add_up_and_experts_count_one_by_one(tmp_path: Path) -> None:
    frame = described(tmp_path, "mixtral")
    shares = frame.filter(pl.col("part") == "share")
    assert shares["share"].sum() == pytest.approx(1)
    total = frame.filter(pl.col("part") == "model")["parameters"].item()
    assert shares["parameters"].sum() == total
    mlps = frame.filter(pl.col("part").str.starts_with("mlp"))
    # Four experts of two matrices; the router stays as it is.
    assert mlps["matrices"].to_list() == [8, 8, 8]
    assert mlps["parameters"].to_list() == [4 * (2 * 96 * 64 + 64 * 96) + 4 * 64] * 3
    assert mlps["parameters"].sum() == shares.filter(pl.col("module") == "MLP")["parameters"].item()


def test_a_model_changed_by_its_cache_says_so(tmp_path: Path) -> None:
    (row,) = described(tmp_path, "bamba").filter(pl.col("part") == "cache").iter_rows(named=True)
    assert "layers.1.self_attn adds something else" in row["form"]
