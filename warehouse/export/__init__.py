"""What a paper takes from the warehouse: typeset tables, a methods section, and the folder that holds them.

Which views and figures go into an export, and how figures are drawn, is decided elsewhere.
"""
