"""The DuckDB catalogue: views of `sql/`, their documentation, safe SQL, comparisons, frames."""
