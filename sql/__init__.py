"""The SQL views, one file each: staging, intermediate, marts, questions; macros, comparisons and tests beside them."""
