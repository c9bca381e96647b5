"""The result of an export."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckpointResult:
    """A written checkpoint and its verification.

    Attributes:
        folder: the checkpoint's folder.
        bytes: size of the weights.
        parameters: number of values in them, tied ones once.
        distance: relative distance of its logits from those of the variant with values rounded to the stored dtype.
        notes: sentences on what was removed, filled with zeros or rounded.
        rounded: the dtype that new values were rounded to, and the relative distance of its logits from those of the
            unrounded variant; None if nothing was rounded.
    """

    folder: Path
    bytes: int
    parameters: int
    distance: float
    notes: tuple[str, ...]
    rounded: tuple[str, float] | None = None

    @property
    def proof(self) -> str:
        """A sentence, without full stop, on how close its logits are to the variant's."""
        if self.rounded is None:
            return f"plain transformers gives the same logits (to {self.distance:.1e} of their length)"
        dtype, distance = self.rounded
        return (
            f"new values are rounded to {dtype}, as the dense model is stored, which moves the logits by "
            f"{distance:.1e} of their length away from the unrounded variant's; plain transformers gives the same "
            f"logits as the rounded variant (to {self.distance:.1e})"
        )
