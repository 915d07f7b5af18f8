"""Input specification of a network: sampling of frames, resizing, crop, normalization, color order. Needs no torch."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "GTEA_MEAN",
    "GTEA_STD",
    "HALF",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "KINETICS_MEAN",
    "KINETICS_STD",
    "SRTG_MEAN",
    "SRTG_STD",
    "InputSpec",
]

Triple = tuple[float, float, float]
Sampling = Literal["dense", "segments"]
Crop = Literal["center", "stretch"]
Color = Literal["rgb", "bgr"]
Modality = Literal["rgb", "flow", "motion", "residual", "rgb+flow", "rgb+motion", "rgb+residual", "features"]
_CHANNELS = {"rgb": 3, "flow": 2, "motion": 2, "residual": 3}

# Values for R, G and B, in this order, for pixels in 0..1.
SRTG_MEAN: Triple = (124 / 255, 117 / 255, 104 / 255)
SRTG_STD: Triple = (1 / (0.0167 * 255),) * 3
IMAGENET_MEAN: Triple = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD: Triple = (58.395 / 255, 57.12 / 255, 57.375 / 255)
KINETICS_MEAN: Triple = (0.43216, 0.394666, 0.37645)
KINETICS_STD: Triple = (0.22803, 0.22145, 0.216989)
GTEA_MEAN: Triple = (0.551, 0.424, 0.179)
GTEA_STD: Triple = (0.133, 0.141, 0.124)

HALF: Triple = (0.5, 0.5, 0.5)
"""Mean and standard deviation of motion: values from -1 to 1."""

_CHOICES = {"sampling": Sampling, "crop": Crop, "color": Color, "modality": Modality}


@dataclass(frozen=True)
class InputSpec:
    """Input that a network expects. Use `dataclasses.replace` to change single fields.

    `mean` and `std` are always in the order R, G, B and apply to pixels in 0..1: with color="bgr", `mean[2]` is
    subtracted from the first channel. Optical flow and motion vectors are scaled to 0..1, with 0.5 for no motion, and
    use the first two values; residuals are scaled to 0..1 likewise. The second part of a pair such as "rgb+flow" is
    normalized with a mean and a standard deviation of 0.5, the first with `mean` and `std`. With the modality
    "features" the input is a sequence of feature vectors, and the fields of images have no effect.

    Attributes:
        frames: T, number of frames of a clip, or of segments with the sampling "segments".
        interval: distance between frames of a clip, in frames of the video; 1: consecutive frames. No effect with the
            sampling "segments".
        sampling: "dense": a clip has `frames` frames, `interval` apart. "segments": the video is divided into `frames`
            equal segments, and one frame is sampled from each.
        size: height and width of the crop, in pixels.
        resize: length of the shorter side before the crop, in pixels; None: the crop covers the whole shorter side.
        crop: "center": square center crop, which keeps the aspect ratio. "stretch": the whole frame is scaled to
            size x size; excludes `resize`.
        mean: mean of R, G and B, for pixels in 0..1.
        std: standard deviation of R, G and B, above 0, for pixels in 0..1.
        color: order of the color channels.
        modality: "rgb" images, optical "flow" or "motion" vectors of the codec with two channels, "residual" pictures
            of the codec with three; a pair of them such as "rgb+flow", one behind the other in the channels; or
            precomputed "features".
        stack: number of consecutive flows or motion vectors for each frame, in the channels (x, y, x, y, ...).

    Raises:
        ValueError: a value is out of range.
        TypeError: a value has another type.
    """

    frames: int = 16
    interval: int = 1
    sampling: Sampling = "dense"
    size: int = 112
    resize: int | None = None
    crop: Crop = "center"
    mean: Triple = SRTG_MEAN
    std: Triple = SRTG_STD
    color: Color = "rgb"
    modality: Modality = "rgb"
    stack: int = 1

    @property
    def channels(self) -> int:
        """Channels of a clip; 0 for "features"."""
        return sum(
            _CHANNELS[part] * (self.stack if part in ("flow", "motion") else 1)
            for part in self.modality.split("+")
            if part != "features"
        )

    @property
    def motion_channels(self) -> int:
        """Channels of the second part of a pair such as "rgb+flow", the last ones; 0 without a pair."""
        color, _, _ = self.modality.partition("+")
        return self.channels - _CHANNELS[color] if "+" in self.modality else 0

    def __post_init__(self) -> None:
        for name in ("frames", "interval", "size", "resize", "stack"):
            value = getattr(self, name)
            if value is None and name == "resize":
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"input spec: {name}={value!r} must be an integer")
            if value < 1:
                raise ValueError(f"input spec: {name}={value} must be at least 1")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"input spec: {name}={getattr(self, name)!r} is not one of {', '.join(get_args(kind))}"
                )
        for name in ("mean", "std"):
            object.__setattr__(self, name, _triple(name, getattr(self, name)))
        if min(self.std) <= 0:
            raise ValueError(f"input spec: std={self.std} must be above 0 in each channel")
        if self.stack > 1 and not {"flow", "motion"} & set(self.modality.split("+")):
            raise ValueError(f"input spec: stack={self.stack} has no effect with modality={self.modality!r}")
        if self.resize is not None and self.crop == "stretch":
            raise ValueError(f"input spec: resize={self.resize} has no effect with crop='stretch'; leave it None")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"input spec: a crop of size={self.size} does not fit into frames whose shorter side is "
                f"resize={self.resize}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as numbers, strings and lists, which JSON can store and `from_dict` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSpec":
        """Build a spec from a mapping of field names to values.

        Args:
            values: as `as_dict` returns them; missing fields have their defaults.

        Raises:
            ValueError: a field is unknown, or a value is out of range.
            TypeError: a value has another type.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(known)}"
                raise ValueError(f"input spec: no field {name!r}; {hint}")
        return cls(**values)


def _triple(name: str, values: Any) -> Triple:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"input spec: {name}={values!r} must be three numbers, for R, G and B")
    numbers = tuple(values)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
        raise TypeError(f"input spec: {name}={values!r} must be three numbers, for R, G and B")
    if len(numbers) != 3 or not all(math.isfinite(value) for value in numbers):
        raise ValueError(f"input spec: {name}={values!r} must be three finite numbers, for R, G and B")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
