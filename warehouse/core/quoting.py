"""Names and texts as SQL writes them, and as a terminal may show them."""


def literal(text: str) -> str:
    """The text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """The name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def visible(text: str, keep: str = "") -> str:
    """Control characters as escapes: a token must not steer the terminal that shows it."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
