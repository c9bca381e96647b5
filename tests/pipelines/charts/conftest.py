"""Pages that more than one test reads; they are rendered once."""

import pytest

from tests.pipelines.charts import frames, pages


@pytest.fixture(scope="session")
def usual_page() -> str:
    return pages.page()


@pytest.fixture(scope="session")
def small_page() -> str:
    """A usual page with few points, quick in a browser."""
    return pages.page(estimate_points=frames.estimate_points(per_theorem=50))


@pytest.fixture(scope="session")
def hostile_page() -> str:
    return pages.hostile_page()
