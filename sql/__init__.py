"""The SQL views, one file each: macros, staging, marts, questions and tests; `notebook.py` asks five of them."""
