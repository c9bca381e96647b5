"""Charts of the SQL marts. A figure has its query and draws the query's rows; `registry.FIGURES` lists all."""
