"""The SQL views, one file each: macros, staging, marts, questions and tests; no Python lives here."""
