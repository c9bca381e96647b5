"""The definitions that Dagster loads: `dagster dev -m prunescope.assets.definitions`, or `prunescope ui`."""

from dagster import Definitions

from prunescope.assets.automation.jobs import JOBS
from prunescope.assets.automation.sensors import OUTDATED, answers_sensor, nightly, watch_sensor
from prunescope.assets.defs.asset_definitions import asset_definitions

defs = Definitions.merge(
    asset_definitions,
    Definitions(jobs=JOBS, sensors=[watch_sensor, OUTDATED, answers_sensor], schedules=[nightly]),
)
