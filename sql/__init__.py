"""The SQL views, one file each: staging, intermediate, marts, questions; macros, comparisons and tests beside them.

What is computed outside of SQL lives in `pipelines`.
"""
