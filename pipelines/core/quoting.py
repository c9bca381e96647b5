"""Quoting of names and texts for SQL, and escapes of text from elsewhere for terminals."""


def literal(text: str) -> str:
    """Return the text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return the name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def escape_control(text: str, keep: str = "") -> str:
    """Escape control characters, except those in `keep`, so that a token cannot control the terminal."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
