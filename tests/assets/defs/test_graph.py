"""The asset graph, compared with `graph.txt` so that every change is deliberate."""

from prunescope.assets.definitions import defs
from tests.assets.defs.graph import FILE, described


def test_the_graph_equals_the_agreed_one() -> None:
    found = described(defs)
    assert found == FILE.read_text(encoding="utf-8"), (
        "assets, dependencies, partitions, checks, jobs or sensors have changed; if that was meant, "
        "`python -m tests.assets.defs.graph` writes tests/assets/graph.txt anew for the commit"
    )
