"""The computation: models, pruning, representation metrics, evaluation, charts.

Arguments in, values out; no Dagster, no warehouse paths, no environment variables.
"""
