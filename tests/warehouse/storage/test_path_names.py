"""Safe and distinct folder names of models and recipes."""

import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunescope.warehouse.core.errors import WarehouseError
from prunescope.warehouse.storage.path_names import MAX_LENGTH, original, path_safe

HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.text("./\\%~:*?[]\0 \n aA", min_size=1, max_size=130),
    st.sampled_from(
        ["..", ".", "../../etc/passwd", "con", "NUL", "lpt1.txt", "a" * 500, "model=x", "é", "e\u0301", "%2E"]
    ),
)


@given(HOSTILE)
def test_any_name_becomes_one_plain_ascii_folder(name):
    safe = path_safe(name)
    assert re.fullmatch(r"[A-Za-z0-9._%~-]+", safe)
    assert len(safe) <= MAX_LENGTH
    assert not safe.startswith(".")
    assert not safe.endswith(".")
    assert safe.partition(".")[0].lower() not in {"con", "nul", "lpt1"}


@given(HOSTILE, HOSTILE)
def test_different_names_get_different_folders(one, other):
    assert (path_safe(one) == path_safe(other)) == (one == other)


@given(HOSTILE)
def test_a_name_can_be_decoded_unless_it_was_shortened(name):
    assert original(path_safe(name)) in {name, None}


@given(HOSTILE)
def test_on_a_disk_without_case_only_names_without_case_share_a_folder(name):
    for other in {name.upper(), name.lower(), name.swapcase(), unicodedata.normalize("NFC", name)} - {name}:
        share = path_safe(name).lower() == path_safe(other).lower()
        ascii_only = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
        assert not share or name.translate(ascii_only) == other.translate(ascii_only)


@pytest.mark.parametrize(
    "device", ["CON", "prn", "Aux", "NUL", *(f"{port}{n}" for port in ("COM", "lpt") for n in range(10))]
)
@pytest.mark.parametrize("ending", ["", ".txt", ".tar.gz", "."])
def test_no_folder_has_the_name_of_a_windows_device(device, ending):
    assert path_safe(device + ending).partition(".")[0].lower() != device.lower()
    assert original(path_safe(device + ending)) == device + ending


def test_a_whole_name_cannot_imitate_a_shortened_one():
    shortened = path_safe("a" * 500)
    assert original(shortened) is None
    assert path_safe(shortened) != shortened


def test_ordinary_names_stay_readable():
    assert path_safe("SmolLM2-135M_x.v1") == "SmolLM2-135M_x.v1"


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_name_that_is_no_text_is_refused(name):
    with pytest.raises(WarehouseError, match="name"):
        path_safe(name)
