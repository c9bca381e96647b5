"""What is computed: models, calibration, pruning, representation metrics, charts.

Arguments in, values out; no Dagster, no warehouse paths, no environment variables.
"""
