"""What a test of recognition evaluated: the weights, the videos and their views."""

from __future__ import annotations

from dataclasses import dataclass

from vidseg.labels.counting import counted

__all__ = ["TestedWeights"]


@dataclass(frozen=True)
class TestedWeights:
    """The facts of a test that do not follow from the predictions."""

    network: str
    checkpoint: str
    epoch: int | None
    """Finished epochs of the tested weights; None: not known."""
    dataset: str
    """Folder of the data set."""
    split: str
    """Name of the tested split."""
    selected_on: bool
    """Whether the checkpoint was selected on this split, so that the scores are optimistic."""
    videos: int
    clips: int
    crops: int
    fuse: str

    def footer(self) -> list[str]:
        """Return the lines below a table of scores."""
        videos, views = counted(self.videos, "video"), counted(self.clips * self.crops, "view")
        lines = [f"{self.network}, {self.checkpoint}, on {self.split}: {videos}, {views} each"]
        if self.selected_on:
            lines.append(
                "This split also selected the checkpoint, as the data set has no other one: the scores are optimistic."
            )
        return lines
