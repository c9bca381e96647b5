"""Charts, findings and the report: frames of the SQL marts in, pictures and one HTML page out.

No SQL is run and no path is read or written here; `registry.FIGURES` lists the figures.
"""
