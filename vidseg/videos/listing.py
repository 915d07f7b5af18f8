"""Listing of the sources of a conversion, from a folder or a CSV, with the target of each."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from vidseg.frames.schema import DATABASE_NAME
from vidseg.labels.catalog import UNLABELED
from vidseg.labels.csv_labels import LabelRow, read_label_csv

__all__ = ["Job", "Listing", "Problem", "find_jobs", "in_shard", "numbered_jpegs"]

_SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val"}
_SPLITS |= {"test": "test", "testing": "test"}
# Extensions of files that are not videos. All other files are opened, and reported if they are not videos.
_BESIDE_VIDEOS = frozenset(
    "txt csv tsv json jsonl xml yaml yml md rst html pdf log srt vtt ass sub lrc nfo ini cfg toml py sh "
    "jpg jpeg png bmp tif tiff webp npy npz pt pth pkl pickle h5 hdf5 mat db sqlite bundle lst list idx "
    "mp3 wav flac aac m4a ogg opus wma zip tar gz bz2 xz 7z rar part tmp crdownload torrent md5 sha1 sha256".split()
)
_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.jpe?g", re.IGNORECASE)
_FRAME_PREFIXES = ("frame_", "img_", "image_", "frame", "img", "image", "")


@dataclass(frozen=True)
class Job:
    """Conversion of one source to one database.

    Attributes:
        source: the video file, folder of JPEG frames, or frames.db.
        kind: "video", "jpegs" or "database".
        target: folder of the new database below the data set's jpg/, as `<class>/<video>`.
        label: class name, or None.
        split: "train", "val" or "test" if the source defines splits, else None.
        start: start of the clip in seconds, or None.
        stop: end of the clip in seconds, or None.
    """

    source: str
    kind: str
    target: str
    label: str | None = None
    split: str | None = None
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True)
class Problem:
    """Source that cannot be converted, with the reason."""

    source: str
    target: str | None
    reason: str


@dataclass
class Listing:
    """Jobs, problems and ignored files found at a source."""

    jobs: list[Job]
    problems: list[Problem]
    ignored: list[str]


def find_jobs(source: Path, *, videos: Path | None = None) -> Listing:
    """List the conversion jobs of `source`.

    Args:
        source: a folder (`<class>/<video>`, `<split>/<class>/<video>` or flat; videos, folders of numbered JPEGs, frame
            databases), a single video or database, or a CSV in the published format or with a column `path`.
        videos: folder of the videos listed in a CSV; default: folder of the CSV.

    Returns:
        The jobs, the sources that cannot be converted, and the ignored files.

    Raises:
        FileNotFoundError: `source` or `videos` does not exist.
        ValueError: the CSV is malformed.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.suffix.lower() == ".csv" and source.is_file():
        listing = _from_csv(source, videos or source.parent)
    else:
        listing = _from_tree(source)
    listing.jobs.sort(key=lambda job: (job.target, job.source))
    return _without_collisions(listing)


def in_shard(job: Job, shard: tuple[int, int]) -> bool:
    """Return whether `job` belongs to part i of n; depends on the target only, so all machines agree."""
    part, parts = shard
    return crc32(job.target.encode()) % parts == part - 1


def numbered_jpegs(folder: Path) -> list[tuple[int, Path]]:
    """Return number and path of each frame of a folder of JPEGs, ordered by number.

    If a folder has several series (img_00001.jpg and flow_x_00001.jpg), the series with a common frame prefix is used.

    Raises:
        ValueError: several series without a common frame prefix, or two files with one number.
    """
    series: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for path in folder.iterdir():
        if match := _NUMBERED.fullmatch(path.name):
            series[match["prefix"].lower()].append((int(match["number"]), path))
    if not series:
        return []
    prefix = next((name for name in _FRAME_PREFIXES if name in series), None)
    if prefix is None:
        if len(series) > 1:
            raise ValueError(f"several series of JPEGs: {', '.join(sorted(series))}; keep only one in the folder")
        (prefix,) = series
    frames = sorted(series[prefix])
    for (number, first), (other, second) in itertools.pairwise(frames):
        if number == other:
            raise ValueError(f"two JPEGs for frame {number}: {first.name} and {second.name}")
    return frames


def _from_tree(root: Path) -> Listing:
    listing = Listing([], [], [])
    for path, kind in _walk(root, listing):
        if kind == "problem":
            continue
        parts = path.relative_to(root).parts if path != root else (path.name,)
        if kind == "database":  # <...>/<class>/<video>/frames.db: the folder names the video
            parts = parts[:-1] or (path.resolve().parent.name,)
        if parts[:1] == ("jpg",) and kind == "database":
            parts = parts[1:]
        name = Path(parts[-1]).stem if kind == "video" else parts[-1]
        folders = list(parts[:-1])
        split = _SPLITS.get(folders[0].lower()) if len(folders) > 1 else None
        label = folders[-1] if folders else None
        if label == UNLABELED:
            label = None
        target = f"{label or UNLABELED}/{name}"
        listing.jobs.append(Job(str(path), kind, target, label, split))
    return listing


def _walk(path: Path, listing: Listing) -> Iterator[tuple[Path, str]]:
    """Yield (path, kind) of each source; record ignored files and problems in `listing`."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        listing.problems.append(Problem(ascii(str(path)), None, "the name is not valid UTF-8; rename the file"))
        return
    if path.is_file():
        if path.name == DATABASE_NAME:
            yield path, "database"
        elif path.suffix.lower().removeprefix(".") in _BESIDE_VIDEOS or path.name.startswith("."):
            listing.ignored.append(str(path))
        else:
            yield path, "video"
        return
    if not path.is_dir():
        listing.problems.append(Problem(str(path), None, "neither a file nor a folder; it may be a broken link"))
        return
    if (path / DATABASE_NAME).is_file():
        yield path / DATABASE_NAME, "database"
        return
    try:
        frames = numbered_jpegs(path)
    except ValueError as error:
        listing.problems.append(Problem(str(path), None, str(error)))
        return
    if frames:
        yield path, "jpegs"
    for child in sorted(path.iterdir()):
        if child.name.startswith("."):
            listing.ignored.append(str(child))
        elif not (frames and child.is_file() and _NUMBERED.fullmatch(child.name)):
            yield from _walk(child, listing)


def _from_csv(csv: Path, videos: Path) -> Listing:
    listing = Listing([], [], [])
    rows = read_label_csv(csv)
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: folder of videos not found; set it with --videos")
    by_name: dict[str, list[Path]] = defaultdict(list)
    if any(row.path is None for row in rows):
        for path, kind in _walk(videos, Listing([], [], [])):
            by_name[path.stem if kind == "video" else path.name].append(path)
    for row in rows:
        target = f"{row.label or UNLABELED}/{row.folder_name}"
        try:
            path, whole = _find_video(row, videos, by_name)
            _check_target(target)
        except ValueError as error:
            listing.problems.append(Problem(row.path or row.name, target, str(error)))
            continue
        start, stop = (None, None) if whole else (row.start, row.stop)
        kind = "video" if path.is_file() else "jpegs"
        listing.jobs.append(Job(str(path), kind, target, row.label, row.split, start, stop))
    return listing


def _find_video(row: LabelRow, videos: Path, by_name: dict[str, list[Path]]) -> tuple[Path, bool]:
    """Return (source, whether it is already cut to the times of the row)."""
    if row.path is not None:
        path = videos / row.path
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        return path, False
    # names of cut clips, names in the list, and names used by downloaders of ActivityNet and HACS
    for name, whole in ((row.folder_name, True), (row.name, False), (f"v_{row.name}", False)):
        found = by_name.get(name, [])
        if len(found) > 1:
            raise ValueError(f"several videos with this name: {', '.join(map(str, sorted(found)))}; keep one")
        if found:
            return found[0], whole
    raise ValueError(f"no video {row.name}.* below {videos}")


def _check_target(target: str) -> None:
    parts = target.split("/")
    if len(parts) != 2 or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"target {target!r} is not of the form <class>/<video>; rename the class or the video")


def _without_collisions(listing: Listing) -> Listing:
    by_target: dict[str, list[Job]] = defaultdict(list)
    for job in listing.jobs:
        by_target[job.target].append(job)
    jobs, problems = [], list(listing.problems)
    for target, claims in by_target.items():
        if len(claims) == 1 or len(set(claims)) == 1:
            jobs.append(claims[0])
        else:
            sources = ", ".join(dict.fromkeys(job.source for job in claims))
            reason = f"{len(claims)} sources have the same target: {sources}; rename all but one"
            problems += [Problem(job.source, target, reason) for job in claims]
    return Listing(jobs, problems, listing.ignored)
