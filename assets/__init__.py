"""When and in what order: Dagster assets, partitions, resources, checks, jobs, and the `prunescope` command line.

No computation and no file formats here: those are `pipelines` and `warehouse`.
"""
