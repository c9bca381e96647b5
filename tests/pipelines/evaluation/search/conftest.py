"""The decoder that most tests of searches share."""

from collections.abc import Callable

import pytest

from prunescope.pipelines.evaluation.search.whole import WholeMeasurement
from prunescope.pipelines.models.decoder import Decoder
from tests.pipelines.evaluation.search.engine import Killed


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Callable[[str], Decoder]) -> Decoder:
    return tiny_decoder("llama")


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Killed:
    """Return a function that runs a search up to a number of whole measurements, as if it was killed then."""

    def run(count: int, search: Callable[[], object]) -> list[object]:
        measure, calls = WholeMeasurement.measure, list[object]()

        def measured(self: WholeMeasurement, variant: object) -> object:
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(variant)
            return measure(self, variant)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(WholeMeasurement, "measure", measured)
            with pytest.raises(KeyboardInterrupt):
                search()
        return calls

    return run
