"""The result of an export: what was written, and how closely it was verified."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckpointResult:
    """What was written.

    Attributes:
        folder: where.
        bytes: of the weights.
        parameters: numbers in them, tied ones once.
        distance: of its logits from the variant's with its values rounded as they are stored, relative to their length.
        notes: what was removed, filled with zeros or rounded, in sentences.
        rounded: the type that new values were rounded to, and the distance of the folder's logits from those of the
            variant before that; None where nothing was rounded.
    """

    folder: Path
    bytes: int
    parameters: int
    distance: float
    notes: tuple[str, ...]
    rounded: tuple[str, float] | None = None

    @property
    def proof(self) -> str:
        """How near its logits are to the variant's, as a sentence without a stop."""
        if self.rounded is None:
            return f"plain transformers gives the same logits (to {self.distance:.1e} of their length)"
        dtype, distance = self.rounded
        return (
            f"new values are rounded to {dtype}, as the dense model is stored, which moves the logits by "
            f"{distance:.1e} of their length away from the unrounded variant's; plain transformers gives the same "
            f"logits as the rounded variant (to {self.distance:.1e})"
        )
