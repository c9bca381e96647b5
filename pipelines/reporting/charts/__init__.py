"""Charts of the SQL marts: a figure holds its query, and draws the query's rows; `registry.FIGURES` lists them."""
