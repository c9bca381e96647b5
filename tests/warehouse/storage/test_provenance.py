"""Provenance in JSON, and fingerprints, which depend on content alone."""

import hashlib
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunescope.warehouse.core.errors import DamagedFileError
from prunescope.warehouse.storage.path_names import partition_folders
from prunescope.warehouse.storage.provenance import FOOTER_KEY, fingerprint, footer_json, read_footer
from tests.warehouse.conftest import PROVENANCE

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


STORED = footer_json(PROVENANCE, ())


def written(folder, footer):
    path = folder / "part.parquet"
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({FOOTER_KEY: footer}), path)
    return path


def test_provenance_survives_json(tmp_path):
    folder = tmp_path.joinpath(*partition_folders(PROVENANCE.model, PROVENANCE.recipe))
    folder.mkdir(parents=True)
    assert read_footer(written(folder, STORED)).provenance == PROVENANCE


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"seed": 1}', STORED[:-9]])
def test_other_json_is_no_provenance(tmp_path, text):
    with pytest.raises(DamagedFileError, match="its footer has no whole provenance"):
        read_footer(written(tmp_path, text))


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_inputs(inputs):
    assert fingerprint(inputs) == fingerprint(dict(reversed(inputs.items())))


def test_a_fingerprint_distinguishes_types():
    values = [1, 1.5, "1", True, None, [1], {"1": 1}, "", "true"]
    assert len({fingerprint({"seed": value}) for value in values}) == len(values)


def test_a_fingerprint_never_changes():
    # A change here would make every warehouse compute everything again.
    canonical = rb'{"a":"\u00e9","b":[1,2.5]}'
    assert fingerprint({"b": [1, 2.5], "a": "é"}) == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {1, 2}, b"x"])
def test_only_plain_data_has_a_fingerprint(value):
    with pytest.raises((TypeError, ValueError)):
        fingerprint({"value": value})
