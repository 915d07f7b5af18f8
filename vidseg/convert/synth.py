"""Synthetic labeled videos: a textured shape moves over a textured, slowly drifting background.

The classes differ in motion only. Positions wrap around at the frame borders, sizes oscillate between two limits, and
every video starts at a random position and size. At each frame number all classes therefore have the same distribution
of still frames: a single frame carries no information about the class, and a network that scores above chance uses
motion.

Textures have the 1/f amplitude spectrum of natural images, so JPEG and H.264 sizes are realistic.
"""

import csv
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vidseg.convert.synth_options import SynthOptions
from vidseg.frames.whole_file import whole_file, write_text
from vidseg.labels.counting import counted
from vidseg.videos.textured_shapes import SHAPES, natural_noise, shape_distance

__all__ = ["ACTIONS", "SynthOptions", "SynthReport", "frame_flow", "frame_planes", "synthesize_videos", "trajectory"]

logger = logging.getLogger(__name__)

# Motion of each action: speed to the right, speed downwards, clockwise rotation about a center, periodic scaling,
# shaking along a line.
ACTIONS: dict[str, tuple[int, int, int, int, int]] = {
    "move_left": (-1, 0, 0, 0, 0),
    "move_right": (1, 0, 0, 0, 0),
    "move_up": (0, -1, 0, 0, 0),
    "move_down": (0, 1, 0, 0, 0),
    "orbit_clockwise": (0, 0, 1, 0, 0),
    "orbit_anticlockwise": (0, 0, -1, 0, 0),
    "pulse": (0, 0, 0, 1, 0),
    "shake": (0, 0, 0, 0, 1),
}

# Ranges of the random parameters of a video; lengths in units of the frame height.
_RADIUS = (0.1, 0.3)
_SPEED = (0.4, 0.6)  # per second
_ORBIT_RADIUS = (0.2, 0.28)
_PERIOD = (0.9, 1.2)  # seconds per rotation and per scaling cycle
_SHAKE_RATE = (2.0, 3.0)  # per second
_SHAKE_REACH = 0.12
_DRIFT = 0.04  # maximum drift of the background per second

# mbtree of x264 build 165 is not deterministic. The videos have no cuts and no fades: B-frames at a fixed distance,
# without a search for either, halve the time of encoding, and the files have the PSNR of the preset "veryfast".
_X264 = "mbtree=0:scenecut=0:b-adapt=0:weightp=0"


@dataclass(frozen=True)
class SynthReport:
    """Content of the folder after `synthesize_videos`.

    Attributes:
        videos: number of trimmed videos.
        untrimmed: number of untrimmed videos.
        frames: number of frames of all videos.
        size_bytes: size of all videos.
        made: number of videos written by this call.
    """

    videos: int
    untrimmed: int
    frames: int
    size_bytes: int
    made: int
    """Number of videos written by this call; the others existed."""

    def __str__(self) -> str:
        return (
            f"{counted(self.videos, 'trimmed video')}, {counted(self.untrimmed, 'untrimmed video')}, "
            f"{counted(self.frames, 'frame')}, {self.size_bytes / 1e6:.1f} MB; {self.made} written by this call"
        )


@dataclass(frozen=True)
class _Segment:
    """Frames [start, stop) of a video that show `action`."""

    action: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Video:
    path: str
    split: str
    number: tuple[int, int]
    """(kind, index); together with the seed, the random seed of this video."""
    frames: int
    segments: tuple[_Segment, ...]


def synthesize_videos(
    dst: str | Path,
    options: SynthOptions | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    flow: bool = False,
) -> SynthReport:
    """Write a synthetic data set of moving shapes: H.264 files and label tables.

    The folder contains `videos/<class>/<video>.mp4` with `labels.csv` (label, id, split) and, with `options.untrimmed`,
    `untrimmed/<video>.mp4` with `segments.csv` (label, id, time_start, time_end, split; times in seconds). `synth.json`
    stores the options. A second call with equal options writes only missing videos.

    Args:
        dst: output folder, created if needed.
        options: number, size and split of the videos.
        workers: number of processes; None: one per core, 1: the calling process.
        overwrite: replace the videos of an earlier call with other options.
        flow: also write the true flow of each video, `flow/<class>/<video>.npz`: `flow`, float16 (T, 2, height, width)
            in pixels from a frame to the next one, and `visible`, bool (T, height, width), see `frame_flow`.

    Returns:
        The number and size of the videos.

    Raises:
        FileExistsError: the folder holds other files, or videos of other options and `overwrite` is off.
    """
    dst, options = Path(dst), options or SynthOptions()
    _claim(dst, options, overwrite)
    videos = _plan(options)
    _write_tables(dst, options, videos)
    for leftover in (path for name in ("videos", "untrimmed", "flow") for path in (dst / name).rglob("*.part")):
        leftover.unlink()  # of an interrupted run
    missing = [video for video in videos if not (dst / video.path).exists()]
    fields = [video for video in videos if flow and not (dst / _flow_path(video)).exists()]
    for path in (*(dst / video.path for video in missing), *(dst / _flow_path(video) for video in fields)):
        path.parent.mkdir(parents=True, exist_ok=True)
    logger.info("videos to write to %s: %d (existing: %d)", dst, len(missing), len(videos) - len(missing))
    jobs = [*((_write_video, video) for video in missing), *((_write_flow, video) for video in fields)]
    workers = min(workers or os.cpu_count() or 1, max(1, len(jobs)))
    if workers == 1:
        for write, video in tqdm(jobs, unit="file", disable=None):
            write(dst, options, video)
    else:
        # spawn: fork would copy the state of the caller's threads, such as torch's
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        try:
            running = [pool.submit(write, dst, options, video) for write, video in jobs]
            for job in tqdm(as_completed(running), total=len(running), unit="file", disable=None):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return SynthReport(
        videos=options.videos,
        untrimmed=options.untrimmed,
        frames=sum(video.frames for video in videos),
        size_bytes=sum((dst / video.path).stat().st_size for video in videos),
        made=len(missing),
    )


def _claim(dst: Path, options: SynthOptions, overwrite: bool) -> None:
    """Check that `dst` is new, empty, or the result of an earlier call, and store the options in it."""
    record = dst / "synth.json"
    dst.mkdir(parents=True, exist_ok=True)
    if record.exists():
        if json.loads(record.read_text()) == asdict(options):
            return
        if not overwrite:
            raise FileExistsError(f"{dst} holds videos of other options (see {record}); --overwrite replaces them")
        for name in ("videos", "untrimmed", "flow"):
            shutil.rmtree(dst / name, ignore_errors=True)
        for name in ("labels.csv", "segments.csv", "synth.json"):
            (dst / name).unlink(missing_ok=True)
    elif any(path.name != f".{record.name}.tmp" for path in dst.iterdir()):
        raise FileExistsError(f"{dst} holds files not written by vidseg synth; choose an empty folder")
    write_text(record, json.dumps(asdict(options), indent=2) + "\n")


def _plan(options: SynthOptions) -> list[_Video]:
    """Return the name, split and segments of every video."""
    videos = []
    actions = list(ACTIONS)
    for index in range(options.videos):
        action, number = actions[index % len(actions)], index // len(actions)
        in_class = len(range(index % len(actions), options.videos, len(actions)))
        split = "test" if number >= in_class - round(in_class * options.test_share) else "train"
        path = f"videos/{action}/{action}_{number:04d}.mp4"
        videos.append(_Video(path, split, (0, index), options.frames, (_Segment(action, 0, options.frames),)))
    for index in range(options.untrimmed):
        rng = np.random.default_rng((options.seed, 1, index, 0))
        segments, clock = [], 0
        for _ in range(rng.integers(3, 7)):
            start = clock + int(options.frames * rng.uniform(0.3, 0.8))
            clock = start + max(2, int(options.frames * rng.uniform(0.7, 1.3)))
            segments.append(_Segment(str(rng.choice(actions)), start, clock))
        frames = clock + int(options.frames * rng.uniform(0.3, 0.8))
        split = "test" if index >= options.untrimmed - round(options.untrimmed * options.test_share) else "train"
        videos.append(_Video(f"untrimmed/untrimmed_{index:04d}.mp4", split, (1, index), frames, tuple(segments)))
    return videos


def _write_tables(dst: Path, options: SynthOptions, videos: Sequence[_Video]) -> None:
    def write(name: str, header: list[str], rows: list[list[object]]) -> None:
        with whole_file(dst / name) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    trimmed = [video for video in videos if video.number[0] == 0]
    untrimmed = [video for video in videos if video.number[0] == 1]
    if trimmed:
        rows: list[list[object]] = [[v.segments[0].action, Path(v.path).stem, v.split] for v in trimmed]
        write("labels.csv", ["label", "id", "split"], rows)
    if untrimmed:
        rows = [
            [part.action, Path(video.path).stem, part.start / options.fps, part.stop / options.fps, video.split]
            for video in untrimmed
            for part in video.segments
        ]
        write("segments.csv", ["label", "id", "time_start", "time_end", "split"], rows)


def trajectory(
    rng: np.random.Generator, motion: np.ndarray, *, aspect: float, fps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute position and size of the shape in every frame.

    Args:
        rng: random generator for start, speed, orbit and sizes.
        motion: int (T, 5), the row of `ACTIONS` (zeros: no motion) between each frame and the one before it.
        aspect: frame width divided by frame height.
        fps: frames per second.

    Returns:
        x (T,) in [0, aspect), y (T,) in [0, 1) and radius (T,), all in units of the frame height.
    """
    start_x, start_y, turn, beat, swing, axis = rng.uniform(size=6)
    speed, orbit, period, rate = (rng.uniform(*span) for span in (_SPEED, _ORBIT_RADIUS, _PERIOD, _SHAKE_RATE))
    right, down, turns, pulses, shakes = np.cumsum(motion, axis=0).T / fps
    angle = 2 * np.pi * (turn + turns / period)
    shake = _SHAKE_REACH * np.sin(2 * np.pi * (swing + shakes * rate))
    x = start_x * aspect + speed * right + orbit * np.cos(angle) + shake * np.cos(2 * np.pi * axis)
    y = start_y + speed * down + orbit * np.sin(angle) + shake * np.sin(2 * np.pi * axis)
    size = np.abs(2 * ((beat + pulses / period) % 1.0) - 1)  # uniform over 0..1 for every motion
    return x % aspect, y % 1.0, _RADIUS[0] * (_RADIUS[1] / _RADIUS[0]) ** size


class _Texture:
    """Periodic YUV 4:2:0 picture, sampled with bilinear interpolation."""

    def __init__(self, rng: np.random.Generator, height: int, width: int, *, luma: float, grain: float):
        # Patches with soft edges plus fine noise, as in natural images.
        patches = np.tanh(2 * natural_noise(rng, height, width, exponent=1.6))
        planes = [luma + 12 * patches + grain * natural_noise(rng, height, width, exponent=1.0)]
        for center in rng.uniform(112, 144, size=2):
            tint = rng.uniform(-6, 6) * patches[::2, ::2] + 0.4 * grain * natural_noise(
                rng, height // 2, width // 2, exponent=1.3
            )
            planes.append((center + tint).astype(np.float32))
        self._doubled = [np.tile(plane, (2, 2)) for plane in planes]

    def view(self, dx: float, dy: float) -> list[np.ndarray]:
        """Return the planes shifted by (dx, dy) luma pixels."""
        result = []
        for doubled, scale in zip(self._doubled, (1, 2, 2), strict=True):
            height, width = doubled.shape[0] // 2, doubled.shape[1] // 2
            top, left = (-dy / scale) % height, (-dx / scale) % width
            a, b = np.float32(top % 1), np.float32(left % 1)
            i, j = int(top) % height, int(left) % width  # the remainder of a tiny negative number equals the divisor
            rows = doubled[i : i + height + 1]
            columns = rows[:, j : j + width] * (1 - b)
            columns += rows[:, j + 1 : j + 1 + width] * b
            plane = columns[:-1] * (1 - a)
            plane += columns[1:] * a
            result.append(plane)
        return result

    def sample(self, planes: slice, u: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
        """Return the values of planes of one size at float32 positions v (rows) and u (columns), bilinear, in the shape
        of the positions. Positions are less than the size of the planes away from 0."""
        doubled = self._doubled[planes]
        height, width = doubled[0].shape
        i, j = np.floor(v), np.floor(u)
        a, b = v - i, u - j
        upper = (i.astype(np.intp) + height // 2) * width + (j.astype(np.intp) + width // 2)
        lower = upper + width
        result = []
        for values in (each.ravel() for each in doubled):
            left, right = values[upper], values[lower]
            left += a * (right - left)
            right = values[upper + 1]
            right += a * (values[lower + 1] - right)
            result.append(left + b * (right - left))
        return result


class _Scene:
    """The background, the shape and their motion in one video, see `frame_planes` for the arguments."""

    def __init__(self, rng: np.random.Generator, motion: np.ndarray, *, width: int, height: int, fps: float):
        self.width, self.height, self.frames = width, height, len(motion)
        self._x, self._y, self._radius = trajectory(rng, motion, aspect=width / height, fps=fps)
        luma = rng.uniform(95, 140)
        contrast = rng.uniform(60, 80) * (1 if luma < 117 else -1)
        grain = rng.uniform(3, 7)  # gives JPEGs of 12 to 25 KB at 340x256 and quality 90, like natural video
        self._ground = _Texture(rng, height, width, luma=luma, grain=grain)
        self._skin = _Texture(rng, 128, 128, luma=luma + contrast, grain=grain)
        self._shape, turn = str(rng.choice(SHAPES)), rng.uniform(0, 2 * np.pi)
        self._drift = rng.uniform(-_DRIFT, _DRIFT, size=2) * height / fps
        self._cos, self._sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))

    def _place(self, frame: int, scale: int) -> tuple[np.ndarray, ...]:
        """The shape in a plane: rows i and columns j around it, unwrapped, its cover there, and the positions (u, v) in
        its own coordinates."""
        r, center_x, center_y = (values[frame] * self.height / scale for values in (self._radius, self._x, self._y))
        reach = int(r) + 2
        j = np.arange(int(center_x) - reach, int(center_x) + reach + 1)
        i = np.arange(int(center_y) - reach, int(center_y) + reach + 1)
        dx, dy = (((n - center) / r).astype(np.float32) for n, center in ((j, center_x), (i, center_y)))
        u = dx * self._cos + (dy * self._sin)[:, None]
        v = (dy * self._cos)[:, None] - dx * self._sin
        cover = np.clip(0.5 - shape_distance(self._shape, u, v) * np.float32(r), 0, 1)
        return i, j, cover, u, v

    def planes(self, frame: int) -> list[np.ndarray]:
        """Return the Y, U and V planes of a frame."""
        planes = self._ground.view(*(self._drift * frame))
        for scale, same_size in ((1, slice(0, 1)), (2, slice(1, 3))):
            rows, columns = planes[same_size][0].shape
            i, j, cover, u, v = self._place(frame, scale)
            shown = np.flatnonzero(cover)
            place = ((i % rows * columns)[:, None] + j % columns).ravel()[shown]
            cover, u, v = (values.ravel()[shown] for values in (cover, u, v))
            # The texture rotates and scales with the shape.
            paints = self._skin.sample(same_size, u * np.float32(45 / scale), v * np.float32(45 / scale))
            for plane, paint in zip(planes[same_size], paints, strict=True):
                ground = plane.ravel()[place]
                plane.ravel()[place] = ground + cover * (paint - ground)
        for plane, highest in zip(planes, (235, 240, 240), strict=True):
            plane += 0.5
            np.clip(plane, 16, highest, out=plane)
        return [plane.astype(np.uint8) for plane in planes]

    def _covered(self, frame: int) -> np.ndarray:
        """Where the shape is in a frame, bool (H, W)."""
        covered = np.zeros((self.height, self.width), bool)
        i, j, cover, *_ = self._place(frame, 1)
        covered[np.ix_(i % self.height, j % self.width)] = cover > 0.5
        return covered

    def flow(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the flow of a frame to the next one, and where it shows, see `frame_flow`."""
        flow = np.empty((2, self.height, self.width), np.float32)
        flow[:] = self._drift[:, None, None]
        i, j, cover, *_ = self._place(frame, 1)
        growth = self._radius[frame + 1] / self._radius[frame] - 1
        # Positions wrap around: of the two ways to the next one, the shape takes the shorter.
        for axis, (values, period, here) in enumerate(
            ((self._x, self.width / self.height, j[None, :]), (self._y, 1.0, i[:, None]))
        ):
            step = (values[frame + 1] - values[frame] + period / 2) % period - period / 2
            moved = step * self.height + (here - values[frame] * self.height) * growth
            place = np.ix_(i % self.height, j % self.width)
            flow[axis][place] = np.where(cover > 0.5, moved, flow[axis][place])
        return flow, self._visible(flow, self._covered(frame), self._covered(frame + 1))

    def _visible(self, flow: np.ndarray, covered: np.ndarray, later: np.ndarray) -> np.ndarray:
        x = flow[0] + np.arange(self.width)
        y = flow[1] + np.arange(self.height)[:, None]
        visible = (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)
        column, row = np.rint(x).astype(int) % self.width, np.rint(y).astype(int) % self.height
        return visible & (later[row, column] == covered)


def frame_planes(
    rng: np.random.Generator, motion: np.ndarray, *, width: int, height: int, fps: float
) -> Iterator[list[np.ndarray]]:
    """Yield the Y, U and V planes (4:2:0, limited range, uint8) of each frame of one video.

    Args:
        rng: random generator of the video.
        motion: int (T, 5), see `trajectory`.
        width: frame width in pixels, even.
        height: frame height in pixels, even.
        fps: frames per second.

    Yields:
        [Y (height, width), U (height / 2, width / 2), V (height / 2, width / 2)].
    """
    scene = _Scene(rng, motion, width=width, height=height, fps=fps)
    for frame in range(scene.frames):
        yield scene.planes(frame)


def frame_flow(
    rng: np.random.Generator, motion: np.ndarray, *, width: int, height: int, fps: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the true flow of each frame of the video that `frame_planes` yields for the same arguments.

    Args:
        rng: random generator of the video, in the state in which `frame_planes` takes it.
        motion: int (T, 5) with T at least 2, see `trajectory`.
        width: frame width in pixels, even.
        height: frame height in pixels, even.
        fps: frames per second.

    Yields:
        Flow float32 (2, height, width), displacement (x, y) in pixels from a frame to the next one, and bool (height,
        width), where the point of a pixel is inside the next frame and not hidden there. The last pair repeats the one
        before.
    """
    scene = _Scene(rng, motion, width=width, height=height, fps=fps)
    for frame in range(scene.frames):
        yield scene.flow(min(frame, scene.frames - 2))


def _motion(options: SynthOptions, video: _Video) -> tuple[np.random.Generator, np.ndarray]:
    """The random generator of a video, and its motion."""
    motion = np.zeros((video.frames, 5), dtype=np.int64)
    for part in video.segments:
        motion[part.start : part.stop] = ACTIONS[part.action]
    return np.random.default_rng((options.seed, *video.number, 1)), motion


def _flow_path(video: _Video) -> Path:
    return Path("flow", *Path(video.path).parts[1:]).with_suffix(".npz")


def _write_flow(dst: Path, options: SynthOptions, video: _Video) -> None:
    """Write the true flow of one video; the file is complete or absent."""
    rng, motion = _motion(options, video)
    fields = frame_flow(rng, motion, width=options.width, height=options.height, fps=options.fps)
    flow, visible = zip(*fields, strict=True)
    with whole_file(dst / _flow_path(video), suffix=".part") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, flow=np.stack(flow).astype(np.float16), visible=np.stack(visible))


def _write_video(dst: Path, options: SynthOptions, video: _Video) -> None:
    """Render and encode one video; a temporary file is renamed when it is complete."""
    rng, motion = _motion(options, video)
    path = dst / video.path
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=options.fps)
            stream.width, stream.height, stream.pix_fmt = options.width, options.height, "yuv420p"
            stream.time_base = Fraction(1, options.fps)
            stream.codec_context.thread_count = 1
            stream.options = {"preset": "superfast", "crf": "20", "x264-params": _X264}
            planes = frame_planes(rng, motion, width=options.width, height=options.height, fps=options.fps)
            for number, frame_parts in enumerate(planes):
                image = np.concatenate([plane.ravel() for plane in frame_parts])
                frame = av.VideoFrame.from_ndarray(image.reshape(-1, options.width), format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, options.fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
