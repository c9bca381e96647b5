"""Quoting of names and texts for SQL."""


def literal(text: str) -> str:
    """Return the text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return the name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
