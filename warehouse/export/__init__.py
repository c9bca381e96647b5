"""Material for a paper: typeset tables, the methods section, and the folder that holds them."""
