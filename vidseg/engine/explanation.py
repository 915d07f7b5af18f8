"""Where in a video a network looks: heat of its frames window by window, as a picture or a video with labels.

A video is decoded three times: to count its frames, to compute the heat, and to draw. Memory holds the frames of one
window and a small heat map of each explained frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.engine.attribution import grad_cam, integrated_gradients
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.frames.whole_file import whole_file
from vidseg.models import InputSpec
from vidseg.plots.heat import overlay_heat, plot_heat
from vidseg.videos import VideoSource
from vidseg.videos.decoding import VideoError
from vidseg.videos.orientation import frame_orientation
from vidseg.videos.video_writer import LabeledVideoWriter

__all__ = ["METHODS", "Explanation", "Method", "clip_heat", "draw_explanation", "explain_windows", "target_class"]

Method = Literal["grad-cam", "integrated-gradients"]
METHODS: tuple[Method, ...] = ("grad-cam", "integrated-gradients")

_SIDE = 64  # largest height and width of a stored heat map
_SHOWN = 6  # frames in a picture
_VIDEOS = (".mp4", ".mkv", ".mov", ".m4v", ".avi")


@dataclass(frozen=True)
class Explanation:
    """Heat of some frames of a video.

    Attributes:
        video: the video file.
        title: network, class and method in words.
        numbers: int64 (M,) numbers of the explained frames, rising.
        heat: float32 (M, h, w), from 0 to 1, the highest value of the video; of the region.
        texts: predicted classes of each explained frame.
        region: part of a frame that the network sees, (left, top, right, bottom) as fractions.
    """

    video: Path
    title: str
    numbers: npt.NDArray[np.int64]
    heat: npt.NDArray[np.float32]
    texts: tuple[str, ...]
    region: tuple[float, float, float, float]

    def nearest(self, number: int) -> int:
        """Return the place of the explained frame that is nearest to a frame of the video."""
        return int(np.abs(self.numbers - number).argmin())


def clip_heat(
    model: torch.nn.Module,
    clips: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    method: Method = "grad-cam",
    layer: str | None = None,
    steps: int = 32,
) -> Tensor:
    """Return what raises a score in clips.

    Args:
        model: in evaluation mode.
        clips: (B, C, T, H, W), normalized.
        score: calls the network with clips and returns the score (B,).
        method: "grad-cam", or "integrated-gradients": the positive part of the sum over the channels.
        layer: module whose maps Grad-CAM uses; None: the last one with maps.
        steps: points of the integral of integrated gradients.

    Returns:
        float32 (B, T, H, W), at least 0.

    Raises:
        ValueError: an unknown method, a layer for integrated gradients, or a network without spatial maps.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if method == "grad-cam":
        return grad_cam(model, clips, score, layer=layer)
    if layer is not None:
        raise ValueError(f"layer={layer!r}: integrated gradients are of the pixels and use no layer")
    return integrated_gradients(model, clips, score, steps=steps).sum(dim=1).relu()


def target_class(classes: Sequence[str], name: str | None) -> int | None:
    """Return the number of a class; None without a name.

    Raises:
        ValueError: there is no such class; names a similar one.
    """
    if name is None:
        return None
    if name not in classes:
        import difflib

        close = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the network has {', '.join(classes[:10])}"
        raise ValueError(f"unknown class {name!r}; {hint}")
    return list(classes).index(name)


def explain_windows(
    video: str | Path,
    spec: InputSpec,
    windows: Callable[[int], Iterable[npt.NDArray[np.int64]]],
    explain: Callable[[Tensor, Tensor], tuple[Tensor, Sequence[str]]],
    *,
    title: str,
    device: torch.device | str = "cpu",
    until: Callable[[int], int] | None = None,
    clips: Callable[[npt.NDArray[np.int64]], Tensor] | None = None,
) -> Explanation:
    """Compute the heat of a video's frames window by window.

    Args:
        video: video file.
        spec: how the network sees frames.
        windows: from the number of frames of the video to the frame numbers (T,) of each window in order; -1 is a black
            frame.
        explain: from a clip (1, 3, T, H, W) and its mask (1, T) to its heat (T, H, W) and a text for each frame.
        title: title of the explanation.
        device: device of the network.
        until: from the number of a window to the first frame that later windows explain; None: windows do not overlap.
        clips: from the frame numbers (T,) of a window to its clip (1, C, T, H, W), for networks that see motion; None:
            the decoded frames.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file is not a video, or has no frame.
    """
    path = Path(video)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video file")
    found: dict[int, tuple[npt.NDArray[np.float32], str]] = {}
    try:
        length = sum(1 for _ in VideoSource(path))
        # Of motion the preparer is asked for the region only.
        prepare = FramePreparer(spec if clips is None else replace(spec, modality="rgb", stack=1))
        region = None
        wanted = list(windows(length))
        frames = _prepared(path, prepare, {int(number) for window in wanted for number in window if number >= 0})
        kept: dict[int, Tensor] = {}
        for place, numbers in enumerate(wanted):
            while not all(number in kept for number in numbers.tolist() if number >= 0):
                number, pixels, size = next(frames)
                kept[number], region = pixels, region or prepare.region(*size)
            some = next(iter(kept.values()))
            black = prepare.black.to(some).view(3, 1, 1).expand_as(some)
            clip = torch.stack([kept[number] if number >= 0 else black for number in numbers.tolist()], dim=1)[None]
            if clips is not None:
                clip = clips(numbers)
            mask = torch.from_numpy(numbers >= 0)
            heat, texts = explain(clip.to(device), mask[None].to(device))
            small = _small(heat)
            end = length if until is None else until(place)
            for row, number in enumerate(numbers.tolist()):
                if 0 <= number < end and number not in found:
                    found[number] = small[row], texts[row]
            first = min((int(window[window >= 0].min()) for window in wanted[place + 1 :][:1]), default=length)
            for number in [number for number in kept if number < first]:
                del kept[number]
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from error
    numbers = np.array(sorted(found), np.int64)
    heat_maps = np.stack([found[number][0] for number in numbers.tolist()])
    heat_maps = heat_maps / max(float(heat_maps.max()), np.finfo(np.float32).tiny)
    texts = tuple(found[number][1] for number in numbers.tolist())
    return Explanation(path, title, numbers, heat_maps.astype(np.float32), texts, region or (0.0, 0.0, 1.0, 1.0))


def _prepared(path: Path, prepare: FramePreparer, wanted: set[int]) -> Iterator[tuple[int, Tensor, tuple[int, int]]]:
    """Yield number, input (3, H, W) and upright size (height, width) of the wanted frames in order."""
    for number, timed in enumerate(VideoSource(path)):
        if number in wanted:
            width, height = frame_orientation(timed.frame).size(timed.frame.width, timed.frame.height)
            yield number, prepare(timed.frame), (height, width)


def _small(heat: Tensor) -> npt.NDArray[np.float32]:
    """Return heat (T, H, W) on the CPU, averaged to at most 64 x 64."""
    size = (min(_SIDE, heat.shape[1]), min(_SIDE, heat.shape[2]))
    small: npt.NDArray[np.float32] = F.adaptive_avg_pool2d(heat.float(), size).cpu().numpy()
    return small


def draw_explanation(found: Explanation, out: str | Path) -> Path:
    """Draw an explanation as a picture of some frames, or as a video with labels.

    Args:
        found: of `TrainedModel.explain`.
        out: .png, .pdf or .svg for a picture; .mp4 or another container for H.264 video with the sound of the
            explained one.

    Returns:
        `out`.
    """
    out = Path(out)
    if out.suffix.lower() in _VIDEOS:
        return _draw_video(found, out)
    chosen = np.unique(np.linspace(0, len(found.numbers) - 1, _SHOWN).round().astype(np.int64))
    places = {int(found.numbers[place]): int(place) for place in chosen}
    rows = []
    for number, timed in enumerate(VideoSource(found.video)):
        if number in places:
            pixels, place = _upright(timed.frame), places[number]
            caption = f"{timed.time:.2f} s  #{number}\n{found.texts[place]}"
            rows.append((caption, pixels, overlay_heat(pixels, found.heat[place], found.region)))
        if len(rows) == len(places):
            break
    return plot_heat(rows, out, title=f"{found.video.name}: {found.title}")


def _draw_video(found: Explanation, out: Path) -> Path:
    source = VideoSource(found.video)
    out.parent.mkdir(parents=True, exist_ok=True)
    writer: LabeledVideoWriter | None = None
    with whole_file(out, suffix=f".tmp{out.suffix}") as temporary:
        try:
            for number, timed in enumerate(source):
                if writer is None:
                    fps = float(source.properties["fps"] or 25)
                    writer = LabeledVideoWriter(temporary, fps=fps, sound=found.video)
                place = found.nearest(number)
                pixels = overlay_heat(_upright(timed.frame), found.heat[place], found.region)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                writer.write(frame, timed.time, found.texts[place])
        finally:
            if writer is not None:
                writer.close()
    return out


def _upright(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    return frame_orientation(frame).apply(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
