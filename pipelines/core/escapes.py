"""Escapes of text from elsewhere."""


def escape_control(text: str, keep: str = "") -> str:
    """Escape control characters, except those in `keep`, so that a token cannot control the terminal."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
