"""What a user can choose about synthetic videos, and the checks of it; imports nothing heavy."""

from dataclasses import dataclass

__all__ = ["SynthOptions"]


@dataclass(frozen=True)
class SynthOptions:
    """What `synthesize_videos` makes; equal options give equal frames."""

    videos: int = 480
    """Number of trimmed videos, one action each, spread evenly over the classes."""
    untrimmed: int = 0
    """Number of longer videos that hold several actions with still pauses between them."""
    frames: int = 56
    """Frames of a trimmed video; each action of an untrimmed one lasts about as long."""
    width: int = 340
    """Frame width in pixels, even."""
    height: int = 256
    """Frame height in pixels, even."""
    fps: int = 25
    """Frames per second."""
    test_share: float = 0.25
    """Share of the videos of each class that the split calls "test"."""
    seed: int = 0
    """Seed of everything random."""

    def __post_init__(self) -> None:
        if self.videos < 0 or self.untrimmed < 0 or self.videos + self.untrimmed == 0:
            raise ValueError(f"videos={self.videos} and untrimmed={self.untrimmed}: nothing to make")
        if self.frames < 2 or self.fps < 1 or self.seed < 0:
            raise ValueError(f"frames={self.frames}, fps={self.fps}, seed={self.seed}: at least 2, 1 and 0 are needed")
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2:
            raise ValueError(f"frame size {self.width}x{self.height}: both sides must be even and at least 32")
        if self.width < 0.7 * self.height:
            raise ValueError(f"frame size {self.width}x{self.height}: too narrow for the shapes")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share={self.test_share} is not in [0, 1)")
