"""The number of random examples of a property: all in an exhaustive run, a third of them in `make test`."""

_share = 3


def draw_all() -> None:
    """Draw every example in this process, as an exhaustive run does."""
    global _share  # noqa: PLW0603 - set before test modules, which read it for their decorators, are imported
    _share = 1


def examples(most: int) -> int:
    """Return how many of `most` examples this run draws."""
    return -(-most // _share)
