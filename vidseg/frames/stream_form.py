"""How a frames.db with a video stream is encoded."""

from dataclasses import dataclass

__all__ = ["CODECS", "StreamForm"]

CODECS = ("h264", "hevc")
# On clips of HMDB-51, UCF-101 and Kinetics: the smallest ones with at least the PSNR of JPEG quality 75.
_FACTORS = {"h264": 18, "hevc": 20}


@dataclass(frozen=True)
class StreamForm:
    """Encoding of a video stream.

    Attributes:
        codec: "h264" or "hevc".
        crf: constant rate factor of x264 or x265, 0 to 51; smaller is better and larger in bytes. None: 18 for h264, 20
            for hevc.
        gop: frames from one key frame to the next; none is bidirectional.
        chroma: 420 (color at half resolution) or 444.
    """

    codec: str = "h264"
    crf: int | None = None
    gop: int = 12
    chroma: int = 420

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"codec={self.codec!r} is not one of {', '.join(map(repr, CODECS))}")
        if self.crf is None:
            object.__setattr__(self, "crf", _FACTORS[self.codec])
