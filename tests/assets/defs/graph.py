"""Text form of the asset graph, which `graph.txt` keeps so that every change is deliberate."""

from pathlib import Path

from dagster import AssetKey, Definitions, MultiPartitionsDefinition
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

FILE = Path(__file__).with_name("graph.txt")


def described(defs: Definitions) -> str:
    """Return assets by group in the order of the data flow, and jobs, sensors and schedules by name."""
    repository, graph = defs.get_repository_def(), defs.resolve_asset_graph()
    lines = ["# assets: name [partitions] <- what it stands on, ! blocking checks"]
    groups: dict[str, list[str]] = {}
    for key in graph.toposorted_asset_keys:
        groups.setdefault(graph.get(key).group_name, []).append(_asset(graph, key))
    for group, assets in groups.items():
        lines += ["", group, *(f"  {asset}" for asset in sorted(assets))]
    lines += ["", "# jobs"]
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if not job.name.startswith("__"):
            layer = job.asset_layer.selected_asset_keys
            lines.append(f"  {job.name}: {len(layer)} assets" if layer else f"  {job.name}")
    lines += ["", "# sensors and schedules"]
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        starts = ", ".join(target.job_name for target in sensor.targets)
        lines.append(f"  {sensor.name} -> {starts}, {sensor.default_status.value.lower()}")
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        status = schedule.default_status.value.lower()
        lines.append(f"  {schedule.name} -> {schedule.job_name}, {schedule.cron_schedule}, {status}")
    return "\n".join(lines) + "\n"


def _asset(graph: AssetGraph, key: AssetKey) -> str:
    node = graph.get(key)
    partitions = node.partitions_def
    dimensions = (
        sorted(partitions.partition_dimension_names)
        if isinstance(partitions, MultiPartitionsDefinition)
        else [partitions.name]
        if partitions
        else []
    )
    shown = key.to_user_string()
    if dimensions:
        shown += f" [{' x '.join(dimensions)}]"
    if node.parent_keys:
        shown += f" <- {', '.join(sorted(parent.to_user_string() for parent in node.parent_keys))}"
    blocking = sorted(
        check.name for check in graph.asset_check_keys if check.asset_key == key and graph.get(check).blocking
    )
    return shown + (f" ! {', '.join(blocking)}" if blocking else "")
