"""A search's journal: what is remembered, what separates measurements, and what a killed process leaves."""

from pathlib import Path

import numpy as np
import pytest

from prunescope.pipelines.evaluation.search.journal import Arrays, Journal


class Measurement:
    """A measurement that counts its calls."""

    def __init__(self, value: float = 1.5) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"kl": np.array([self.value, np.nan, 1e-12]), "reference": np.arange(3)}


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Measurement, Journal, Path]:
    """Make one measurement; return it with its journal and its file."""
    measure, journal = Measurement(), Journal(tmp_path, "a")
    journal.remember("key", measure)
    (file,) = tmp_path.iterdir()
    return measure, journal, file


def test_a_measurement_is_made_once_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    measure = Measurement()
    first = Journal(tmp_path / "new", "a").remember(["trial", {"mlp.0": "drop"}, False], measure)
    again = Journal(tmp_path / "new", "a").remember(["trial", {"mlp.0": "drop"}, False], measure)
    assert measure.calls == 1
    assert first.keys() == again.keys()
    for name, values in first.items():
        assert values.dtype == again[name].dtype
        assert values.tobytes() == again[name].tobytes()


def test_keys_and_fingerprints_separate_measurements(tmp_path: Path) -> None:
    measure = Measurement()
    for fingerprint in ("a", "b"):
        for key in (["effects", 1], ["effects", 2]):
            Journal(tmp_path, fingerprint).remember(key, measure)
    assert measure.calls == 4
    assert len(list(tmp_path.glob("*.npz"))) == 4


@pytest.mark.parametrize("length", [0, 10, 300, -1])
def test_a_file_that_was_cut_short_is_measured_again(kept: tuple[Measurement, Journal, Path], length: int) -> None:
    measure, journal, file = kept
    file.write_bytes(file.read_bytes()[:length])
    assert journal.remember("key", measure)["kl"][0] == 1.5
    assert measure.calls == 2
    journal.remember("key", measure)
    assert measure.calls == 2


def test_a_temporary_file_of_a_killed_process_is_no_measurement(kept: tuple[Measurement, Journal, Path]) -> None:
    measure, journal, file = kept
    file.rename(file.with_name(f".prunescope-tmp-{file.name}.part"))
    journal.remember("key", measure)
    assert measure.calls == 2
    assert len(list(file.parent.glob("*.npz"))) == 1


def test_a_measurement_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> Arrays:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path / "new", "a").remember("key", fails)
    assert not (tmp_path / "new").exists()


def test_a_journal_that_cannot_be_read_is_an_error_and_no_measurement(kept: tuple[Measurement, Journal, Path]) -> None:
    measure, journal, file = kept
    file.unlink()
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        journal.remember("key", measure)
    assert measure.calls == 1
