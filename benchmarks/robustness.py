"""Frames, times and pictures of video files by vidseg and other readers, beside those of the ffmpeg program.

    python benchmarks/robustness.py [FOLDER ...] [--generated] [--list] [--json FILE]

A reader is right about a file if it gives as many frames as ffmpeg, each frame is nearest to ffmpeg's frame of the same
number among all frames and has its colors, and the times since the first frame differ by at most a millisecond. Readers
run with their defaults, each file in a process of its own. Readers that are not installed are left out:
`pip install torchcodec decord2 opencv-python-headless`. Requires ffmpeg and ffprobe.

With --generated the files are clips of 25 frames that ffmpeg writes: its common codecs in its common containers, every
other codec in the first container that takes it, and every other container with its default codec.
"""

import argparse
import itertools
import json
import multiprocessing
import platform
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from vidseg.convert import ConvertOptions
from vidseg.convert.conversion import convert_one
from vidseg.frames import FrameDatabase
from vidseg.videos.listing import Job

SIDE = 48  # frames are compared at this size
MOST_FRAMES = 2000
COLOR = 6.0  # largest mean difference of a right frame, of 255; JPEG and other conversions from YUV stay below
CONTAINERS = {
    "MP4, MOV, 3GP": "mp4 m4v mov 3gp",
    "Matroska, WebM": "mkv webm",
    "AVI": "avi",
    "ASF": "asf wmv",
    "FLV": "flv",
    "MPEG-PS, MPEG-TS": "mpg ts",
    "Ogg": "ogv",
    "MXF": "mxf",
    "NUT": "nut",
    "GIF": "gif",
}
OTHER_CONTAINERS = {
    "others": "3g2 apng dv f4v gxf ismv m2ts rm roq swf vob wtv y4m",
    "elementary streams": "drc h261 h263 h264 hevc ivf m1v m2v mjpeg obu",
}
CODECS = {
    "H.264": "libx264",
    "H.265": "libx265",
    "AV1": "libaom-av1",
    "VP8, VP9": "libvpx libvpx-vp9",
    "Theora": "libtheora",
    "MPEG-1, MPEG-2": "mpeg1video mpeg2video",
    "MPEG-4, H.263": "mpeg4 msmpeg4v2 msmpeg4 h263p",
    "WMV, Sorenson": "wmv1 wmv2 flv",
    "MJPEG, ProRes, DNxHD": "mjpeg prores_ks dnxhd",
    "lossless": "ffv1 huffyuv utvideo gif png qtrle rawvideo",
}
OTHER_CODECS = (
    "amv asv1 asv2 ayuv cfhd cinepak cljr dpx exr ffvhuff flashsv h261 h263 hap jpeg2000 jpegls libopenjpeg librav1e "
    "libsvtav1 libx264rgb libxvid ljpeg magicyuv msvideo1 prores r10k r210 rpza smc snow speedhq svq1 targa tiff v210 "
    "v308 v408 v410 vc2 y41p yuv4 zlib zmbv"
)
FORMATS = {
    **{codec: [] for codec in ("gif", "png", "qtrle", "rawvideo")},
    "prores_ks": ["-pix_fmt", "yuv422p10le"],
    "dnxhd": ["-pix_fmt", "yuv422p", "-profile:v", "dnxhr_sq"],
}
SPEED = {"libaom-av1": ["-cpu-used", "8"], "libx264": ["-bf", "3"], "mpeg4": ["-bf", "2"]}

KINDS = ("other number of frames", "other frame", "other picture", "other times", "refused or crashed")

Answer = tuple[np.ndarray, np.ndarray]  # times in seconds (T,), frames RGB (T, SIDE, SIDE, 3)


def small(frames: Iterator[np.ndarray]) -> np.ndarray:
    return np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])


def vidseg(path: Path) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(str(path), "video", "x/v")
        outcome = convert_one(job, Path(folder), ConvertOptions(size="none", levels=0), lambda frames: None)
        if outcome.state == "failed":  # a recovered video has a problem too, and frames
            raise ValueError(outcome.problem)
        with FrameDatabase(Path(folder) / "x/v") as database:
            frames = (database.decode([number])[0].numpy() for number in range(len(database)))
            return np.asarray(database.timestamps), small(frames)


def torchcodec(path: Path) -> Answer:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC")
    found = [decoder.get_frame_at(number) for number in range(len(decoder))]
    return np.array([frame.pts_seconds for frame in found]), small(frame.data.numpy() for frame in found)


def decord(path: Path) -> Answer:
    import decord

    reader = decord.VideoReader(str(path))
    times = reader.get_frame_timestamp(list(range(len(reader))))
    return np.asarray(times)[:, 0], small(reader[number].asnumpy() for number in range(len(reader)))


def pyav(path: Path) -> Answer:
    with av.open(str(path)) as container:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return np.array([np.nan if time is None else time for time, _ in found]), small(frame for _, frame in found)


def opencv(path: Path) -> Answer:
    video, times, frames = cv2.VideoCapture(str(path)), [], []
    while True:
        there, frame = video.read()
        if not there:
            break
        times.append(video.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        frames.append(frame[..., ::-1])
    return np.array(times), small(np.ascontiguousarray(frame) for frame in frames)


READERS: dict[str, tuple[str, Callable[[Path], Answer]]] = {
    "vidseg": ("vidseg", vidseg),
    "torchcodec": ("torchcodec", torchcodec),
    "decord2": ("decord", decord),
    "PyAV": ("av", pyav),
    "OpenCV": ("cv2", opencv),
}


def reference(path: Path) -> Answer:
    """Return the times and frames of the ffmpeg program."""
    quiet = ["-v", "quiet"]
    select = ["-select_streams", "V:0", "-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]
    listed = subprocess.run(["ffprobe", *quiet, *select, str(path)], capture_output=True, text=True, check=False).stdout
    scale = ["-map", "0:V:0", "-fps_mode", "passthrough", "-vf", f"format=rgb24,scale={SIDE}:{SIDE}:flags=area"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(["ffmpeg", *quiet, "-i", str(path), *scale, *raw], capture_output=True, check=False).stdout
    words = [line.split(",")[0] for line in listed.split()]
    times = np.array([np.nan if word in ("", "N/A") else float(word) for word in words])
    return times, np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE, 3)


def fault(answer: Answer, expected: Answer) -> str | None:
    """Return how an answer differs from the expected one, or None."""
    times, frames = answer
    wanted_times, wanted = expected
    if len(frames) != len(wanted):
        return f"{len(frames)} of {len(wanted)} frames"
    flat, wanted_flat = (values.reshape(len(values), -1).astype(np.float32) for values in (frames, wanted))
    for number, frame in enumerate(flat):
        distances = np.abs(wanted_flat - frame).mean(axis=1)
        if distances[number] > distances.min() + 0.5:
            return f"frame {number} is frame {int(distances.argmin())}"
        if distances[number] > COLOR:
            return f"frame {number} is another picture (mean difference {distances[number]:.0f})"
    if len(times) == len(wanted_times) and np.isfinite(wanted_times).all():
        gap = np.abs((times - times[0]) - (wanted_times - wanted_times[0]))
        if not gap.max() <= 1e-3:
            return f"time of frame {int(np.nanargmax(gap))} differs by {np.nanmax(gap):.3f} s"
    return None


def _ask(name: str, path: Path, expected: Answer, connection: Any) -> None:
    torch.set_num_threads(1)
    try:
        connection.send(fault(READERS[name][1](path), expected))
    except Exception as error:  # noqa: BLE001 - whatever a reader raises is its answer
        connection.send(f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")


def asked(name: str, path: Path, expected: Answer, seconds: float) -> str | None:
    """Return the fault of a reader about one file; a crash or a hang is one too."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_ask, args=(name, path, expected, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else f"no answer after {seconds:.0f} s"
    except EOFError:
        return "the process crashed"
    finally:
        process.kill()
        process.join()


def write_clip(path: Path, arguments: list[str]) -> bool:
    """Write a clip of 25 different frames; returns whether ffmpeg could."""
    size = "720x576" if path.suffix in (".dv", ".gxf") else "176x144"
    picture = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=1"]
    command = ["ffmpeg", "-v", "quiet", "-y", *picture, "-strict", "-2", *arguments, str(path)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0


def written_clips(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Write clips; yields the path of each with its rows in the tables of containers and of codecs."""
    for (family, containers), (group, codecs) in itertools.product(CONTAINERS.items(), CODECS.items()):
        for container, codec in itertools.product(containers.split(), codecs.split()):
            path = folder / f"{codec}.{container}"
            chosen = [*FORMATS.get(codec, ["-pix_fmt", "yuv420p"]), *SPEED.get(codec, [])]
            if write_clip(path, ["-c:v", codec, *chosen, "-q:v", "3"]):
                yield path, family, group
    for family, containers in OTHER_CONTAINERS.items():
        for container in containers.split():
            path = folder / f"default.{container}"
            if write_clip(path, []):
                yield path, family, "default of the container"
    for codec in OTHER_CODECS.split():
        path = folder / f"{codec}.mkv"
        if write_clip(path, ["-c:v", codec]):
            yield path, "Matroska, WebM", "others"


def found_clips(folders: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    """Find the videos in folders, by their extensions; yields them as `written_clips` does."""
    names = {
        container: family for family, words in (CONTAINERS | OTHER_CONTAINERS).items() for container in words.split()
    }
    for path in (path for root in folders for path in sorted(root.rglob("*"))):
        if path.suffix.lower()[1:] in names:
            yield path, "files of the folders", "files of the folders"


def print_table(title: str, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    heads = list(heads)
    print(f"\n| {title} | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders of videos")
    parser.add_argument("--generated", action="store_true", help="also clips that ffmpeg writes")
    parser.add_argument("--seconds", type=float, default=20, help="longest time for a file; default: 20")
    parser.add_argument("--list", action="store_true", help="print every fault")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if not options.folders and not options.generated:
        parser.error("name folders of videos, or give --generated")
    readers = [name for name, (module, _) in READERS.items() if util.find_spec(module)]
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    names = {"OpenCV": "opencv-python-headless", "PyAV": "av"}
    packages = {name: metadata.version(names.get(name, name)) for name in readers if name != "vidseg"}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    faults: dict[str, dict[str, str]] = {name: {} for name in readers}
    places: dict[str, tuple[str, str]] = {}
    skipped = []
    with tempfile.TemporaryDirectory() as folder:
        generated = written_clips(Path(folder)) if options.generated else ()
        for path, family, group in itertools.chain(found_clips(options.folders), generated):
            expected = reference(path)
            if not 1 <= len(expected[1]) <= MOST_FRAMES:
                skipped.append(f"{path.name} ({len(expected[1])} frames by ffmpeg)")
                continue
            places[path.name] = (family, group)
            for name in readers:
                found = asked(name, path, expected, options.seconds)
                if found is not None:
                    faults[name][path.name] = found
    print(f"machine: {platform.machine()}, Python {platform.python_version()}\nversions: ffmpeg {ffmpeg}, {versions}")
    print(f"files: {len(places)}" + (f"; left out: {', '.join(skipped)}" if skipped else ""))
    rows = []
    for name in readers:
        count = Counter(kind(text) for text in faults[name].values())
        rows.append([name, len(places) - len(faults[name]), *(count[label] for label in KINDS)])
    print_table("reader", ["right", *KINDS], rows)
    for number, title in enumerate(("container", "codec") if options.generated else ()):
        total = Counter(place[number] for place in places.values())
        wrong = {name: Counter(places[path][number] for path in faults[name]) for name in readers}
        rows = [[row, count, *(count - wrong[name][row] for name in readers)] for row, count in total.items()]
        print_table(title, ["files", *readers], rows)
    if options.list:
        for name in readers:
            for path, text in faults[name].items():
                print(f"{name:11} {path:24} {text}")
    if options.json:
        content = {"versions": packages, "files": places, "faults": faults}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def kind(text: str) -> str:
    """Return the column of the table for a fault."""
    if text.endswith(" frames"):
        return "other number of frames"
    if text.startswith("frame "):
        return "other picture" if "another picture" in text else "other frame"
    return "other times" if text.startswith("time of") else "refused or crashed"


if __name__ == "__main__":
    main()
