"""The two ways in which the pipelines refuse: the input is wrong, or the computation failed.

Messages name the file, key or flag and the fix in one or two lines.
"""


class InputError(Exception):
    """What the user gave cannot work: a file, a name, a value."""


class ComputationError(Exception):
    """The input was fine and the computation still failed: NaN logits, a drop without effect."""
