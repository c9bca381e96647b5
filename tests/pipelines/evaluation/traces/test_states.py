"""Stored hidden states against computed ones: the error of every entry, the measures, and a round trip in Parquet."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from prunescope.pipelines.core.errors import InputError
from prunescope.pipelines.evaluation.traces.isolated import IsolatedEffect
from prunescope.pipelines.evaluation.traces.stored_states import read_states, state_rows
from prunescope.pipelines.metrics.divergence import divergence
from prunescope.pipelines.models.decoder import Decoder
from prunescope.warehouse.catalogue import database
from prunescope.warehouse.storage.partition_store import Store
from prunescope.warehouse.tables import TABLES
from tests.pipelines.evaluation.traces.test_isolated import TOKENS, dense_pass, isolated, local_shifts, masks_of
from tests.warehouse.conftest import provenance_of

TABLE = TABLES["hidden_states"]
KEY = ["prompt_id", "position", "layer", "sublayer", "scope"]


def kept(recipe: str, *frames: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(frames).with_columns(model=pl.lit("tiny"), recipe=pl.lit(recipe))


def one_row(values: Tensor) -> Tensor:
    """Return the values after storage as a shift."""
    dense = kept("dense", *state_rows(["p"], [0], 0, "attn", {"dense": torch.ones_like(values)[None]}))
    moved = kept("other", *state_rows(["p"], [0], 0, "attn", {"local": values[None]}))
    return read_states(pl.concat([dense, moved]))[2][0]


@pytest.fixture(scope="module")
def live(decoder: Decoder) -> tuple[Decoder, dict[str, dict[str, Tensor]]]:
    """Return streams and shifts of a masked variant at every position, by sublayer and scope."""
    dense = dense_pass(decoder, TOKENS)
    local = local_shifts(decoder, dense, masks_of(decoder))
    alone = isolated(IsolatedEffect(decoder), dense, local)
    states = {}
    for layer in decoder.layers:
        stream = dense.streams[layer.attn.layer]
        for sublayer in (layer.attn, layer.mlp):
            stream = stream + dense.whole[sublayer.label]
            states[sublayer.label] = {
                "dense": stream, "local": local[sublayer.label], "isolated": alone[sublayer.label]
            }  # fmt: skip
    return decoder, states


@pytest.fixture(scope="module")
def stored(live: tuple[Decoder, dict[str, dict[str, Tensor]]]) -> dict[str, pl.DataFrame]:
    """Return the rows of the two recipes of a study with keep_states."""
    positions = range(TOKENS.shape[1])
    frames: dict[str, list[pl.DataFrame]] = {"dense": [], "random-50": []}
    for label, states in live[1].items():
        kind, layer = label.split(".")
        moves = {scope: move for scope, move in states.items() if scope != "dense"}
        for recipe, kept_states in (("dense", {"dense": states["dense"]}), ("random-50", moves)):
            frames[recipe] += state_rows(["p"] * len(positions), positions, int(layer), kind, kept_states)
    return {recipe: kept(recipe, *own) for recipe, own in frames.items()}


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(-1, 1, 64),
        torch.cat([torch.tensor([22500.0]), torch.logspace(-3, 1, 63)]),  # an outlier as real models have
        torch.logspace(-38, -30, 64),
        torch.full((64,), 3e38),
        torch.cat([torch.tensor([2.0**17]), torch.full((63,), -(2.0**17) * (1 - 2.0**-24))]),
    ],
)
def test_every_entry_has_the_relative_error_of_float16_and_none_overflows(values: Tensor) -> None:
    found = one_row(values)
    error = (found.double() - values.double()).abs()
    allowed = torch.maximum(2.0**-11 * values.double().abs(), 2.0**-39 * values.double().abs().max())
    assert (error <= allowed).all()
    if len(values.unique()) > 2:
        coarse = (values.bfloat16().double() - values.double()).norm()
        assert error.norm() < coarse / 4


def test_zeros_stay_zeros_and_signs_stay() -> None:
    assert not one_row(torch.zeros(8)).any()
    assert torch.equal(one_row(torch.tensor([-3.0, 3.0, 0.0])), torch.tensor([-3.0, 3.0, 0.0]))


@pytest.mark.parametrize("lens", ["raw", "normed"])
def test_measures_of_stored_states_are_the_live_ones_within_the_types_error(
    live: tuple[Decoder, dict[str, dict[str, Tensor]]], stored: dict[str, pl.DataFrame], lens: str
) -> None:
    decoder, states = live
    head = decoder.head
    keys, streams, shifts = read_states(pl.concat(stored.values()))
    assert len(keys) == len(streams) == len(shifts) == 2 * 6 * TOKENS.shape[1]
    assert not {"scale", "state"} & set(keys.columns)
    for (layer, kind, scope), rows in keys.with_row_index("row").group_by("layer", "sublayer", "scope"):
        at = rows.sort("position")["row"].to_list()
        own = states[f"{kind}.{layer}"]
        stream = states["mlp.2"]["dense"] if scope == "isolated" else own["dense"]
        found = divergence(*head.lens(streams[at], shifts[at], lens), head, [1.0])
        truth = divergence(*head.lens(stream, own[scope], lens), head, [1.0])
        where = f"{kind}.{layer} {scope}"
        for column in (
            "norm_h",
            "norm_dh",
            "norm_z",
            "norm_dz",
            "one_minus_cos_h",
            "one_minus_cos_z",
            "var_uniform_dz",
        ):
            np.testing.assert_allclose(found[column], truth[column], rtol=2e-3, err_msg=f"{column} {where}")
        # A probability moves by as much of itself as its logit moves, T = 1.
        x, stored_x = head.lens(stream, own[scope], lens), head.lens(streams[at], shifts[at], lens)
        logit = sum((head.linear(b) - head.linear(a)).abs().amax(dim=-1) for a, b in zip(x, stored_x, strict=True))
        for column in ("kl_dense_pruned_nats", "js_nats", "total_variation", "one_minus_cos_p", "var_p_dz"):
            error = np.abs(found[column] - truth[column])[0]
            allowed = (4 * logit.numpy() + 2e-3) * np.maximum(truth[column][0], found[column][0])
            assert (error <= allowed).all(), f"{column} {where}: {(error / allowed).max()}"
        assert logit.max() < 0.2


def test_states_are_unchanged_by_parquet_and_sql(stored: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    store = Store(tmp_path)
    for recipe, frame in stored.items():
        written = store.write(TABLE, frame, provenance_of("tiny", recipe), "tiny", recipe)
        assert written.violations == ()
    back = pl.concat([pl.DataFrame(store.read(TABLE, "tiny", recipe)) for recipe in stored])
    for found, expected in zip(read_states(back)[1:], read_states(pl.concat(stored.values()))[1:], strict=True):
        assert torch.equal(found, expected)
    with database.connect(tmp_path) as connection:
        rows = connection.sql(
            "select * from stg_hidden_states where scope = 'local' order by layer, sublayer, position"
        )
        entries = np.array(rows.pl()["entries"].to_list(), dtype=np.float32)
    keys, _, shifts = read_states(back)
    order = keys.with_row_index("row").filter(pl.col("scope") == "local").with_columns(
        pl.col("sublayer").cast(pl.String)
    ).sort("layer", "sublayer", "position")["row"]  # fmt: skip
    np.testing.assert_array_equal(entries, shifts[order.to_list()].numpy())


def test_a_number_takes_at_most_two_bytes_and_infinity_is_a_violation(
    stored: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    frame = pl.concat([stored["dense"].with_columns(prompt_id=pl.lit(f"p{index}")) for index in range(20)])
    written = Store(tmp_path).write(TABLE, frame, provenance_of("tiny", "dense"), "tiny", "dense")
    assert written.bytes < 2.1 * 64 * len(frame)
    endless = stored["dense"].head(1).with_columns(state=pl.Series([[float("inf")] * 64], dtype=pl.List(pl.Float16)))
    written = Store(tmp_path).write(TABLE, endless, provenance_of("tiny", "dense"), "tiny", "dense")
    assert [violation.check for violation in written.violations] == ["finite"]


def test_unchanged_sublayers_have_no_rows() -> None:
    (frame,) = state_rows(["p"], [3], 1, "mlp", {"local": None, "propagated": torch.ones(1, 4)})
    assert frame["scope"].to_list() == ["propagated"]
    assert {*frame.columns, "model", "recipe"} == set(TABLE.arrow().names)
    dense = kept("dense", *state_rows(["p"], [3], 1, "mlp", {"dense": torch.ones(1, 4)}))
    keys, streams, shifts = read_states(dense)
    assert len(keys) == len(streams) == len(shifts) == 0


def test_a_shift_without_its_dense_stream_is_refused_by_name(stored: dict[str, pl.DataFrame]) -> None:
    lost = stored["dense"].filter(~((pl.col("layer") == 1) & (pl.col("position") == 7)))
    with pytest.raises(
        InputError, match="no dense stream at model tiny, prompt_id p, position 7, layer 1, sublayer attn"
    ):
        read_states(pl.concat([lost, stored["random-50"]]))
