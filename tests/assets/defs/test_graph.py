"""The asset graph, compared with `graph.txt` so that every change is deliberate."""

from prunescope.assets.definitions import defs
from tests.assets.defs.graph import FILE, described


def test_the_graph_equals_the_agreed_one() -> None:
    found = described(defs)
    assert found == FILE.read_text(encoding="utf-8"), (
        "assets, dependencies, partitions, checks, jobs or sensors have changed; if that was meant, "
        "`python -m tests.assets.defs.graph` writes tests/assets/graph.txt anew for the commit"
    )


def test_every_condition_reaches_the_daemon_through_the_code_server() -> None:
    # Otherwise the daemon evaluates its own copy of the graph, which lacks our condition.
    sensors = {sensor.name: sensor for sensor in defs.get_repository_def().sensor_defs}
    assert sensors["outdated"].sensor_type.value == "AUTOMATION"
    assert "default_automation_condition_sensor" not in sensors
