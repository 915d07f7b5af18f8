"""Options of synthetic videos and their checks; imports nothing slow."""

from dataclasses import dataclass

__all__ = ["SynthOptions"]


@dataclass(frozen=True)
class SynthOptions:
    """Options of `synthesize_videos`; equal options give equal frames."""

    videos: int = 480
    """Number of trimmed videos, one action each, distributed evenly over the classes."""
    untrimmed: int = 0
    """Number of untrimmed videos with several actions separated by pauses without motion."""
    frames: int = 56
    """Number of frames of a trimmed video, and approximate number of frames of each action of an untrimmed one."""
    width: int = 340
    """Frame width in pixels, even."""
    height: int = 256
    """Frame height in pixels, even."""
    fps: int = 25
    """Frames per second."""
    test_share: float = 0.25
    """Fraction of the videos of each class in the test split."""
    seed: int = 0
    """Random seed of all videos."""

    def __post_init__(self) -> None:
        if self.videos < 0 or self.untrimmed < 0 or self.videos + self.untrimmed == 0:
            raise ValueError(
                f"videos={self.videos} and untrimmed={self.untrimmed}: must be at least 0, and one of them at least 1"
            )
        if self.frames < 2 or self.fps < 1 or self.seed < 0:
            raise ValueError(f"frames={self.frames}, fps={self.fps}, seed={self.seed}: must be at least 2, 1 and 0")
        if min(self.width, self.height) < 32 or self.width % 2 or self.height % 2:
            raise ValueError(f"frame size {self.width}x{self.height}: both sides must be even and at least 32")
        if self.width < 0.7 * self.height:
            raise ValueError(f"frame size {self.width}x{self.height}: the width must be at least 0.7 times the height")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share={self.test_share} must be in [0, 1)")
