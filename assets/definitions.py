"""The definitions that Dagster loads: `dagster dev -m prunescope.assets.definitions`, or `prunescope ui`."""

from dagster import Definitions

# Dagster accepts one Definitions object in this module, so the module is imported, not its object.
from prunescope.assets.defs import asset_definitions
from prunescope.assets.runs.dagster_job import STUDY_JOB
from prunescope.assets.runs.sensors import nightly, watch_sensor

defs = Definitions.merge(
    asset_definitions.definitions,
    Definitions(jobs=[STUDY_JOB], sensors=[watch_sensor], schedules=[nightly]),
)
