"""Material for a paper (typeset tables, methods section, their folder), and scores to and from lm-eval's files."""
