"""The SQL views, one file each: macros, staging, marts, questions and tests; `notebook.py` asks five of them.

What is computed outside of SQL lives in `pipelines`.
"""
