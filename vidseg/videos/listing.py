"""Listing of the sources of a conversion, from a folder or a CSV, with the target of each."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from vidseg.frames.schema import DATABASE_NAME
from vidseg.labels.catalog_videos import UNLABELED
from vidseg.labels.csv_labels import LabelRow, folder_names
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.label_files import LABEL_FILE_SUFFIXES, read_label_files
from vidseg.labels.names import PathFinder, clean_name, is_split_name, split_name, strip_extension

__all__ = ["Job", "Listing", "Problem", "find_jobs", "in_shard", "numbered_jpegs"]

_LONGEST_NAME = 255  # bytes of a file name; the limit of most file systems
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
        split: split if the source defines splits, such as "train", else None.
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


def find_jobs(
    source: Path, *, videos: Path | None = None, skip: Path | None = None, first_number: int | None = None
) -> Listing:
    """List the conversion jobs of `source`.

    Names are converted to Unicode NFC without surrounding blanks. Folders train, val and test at the top are splits if
    they contain class folders, or if there are no other folders beside them.

    Args:
        source: a folder (`<class>/<video>`, `<split>/<class>/<video>`, `<split>/<video>` or flat; videos, folders of
            numbered JPEGs, frame databases), a single video or database, or a label file: a CSV in the published format
            or with a column `path`, or a list such as train.txt (see `vidseg.labels.label_files`).
        videos: folder of the videos listed in a label file; default: folder of the file.
        skip: folder to leave out, such as a data set inside `source` that the videos are converted to.
        first_number: number of the first class in a list, 0 or 1; default: as the list shows.

    Returns:
        The jobs, the sources that cannot be converted, and the ignored files.

    Raises:
        FileNotFoundError: `source` or `videos` does not exist.
        ValueError: the label file is malformed.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.suffix.lower() in LABEL_FILE_SUFFIXES and source.is_file():
        listing = _from_labels(source, videos or source.parent, first_number)
    else:
        listing = _from_tree(source, skip)
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


def _from_tree(root: Path, skip: Path | None) -> Listing:
    listing = Listing([], [], [])
    found: list[tuple[Path, str, tuple[str, ...], bool]] = []
    for path, kind in _walk(root, listing, skip=skip.resolve() if skip is not None and skip.exists() else None):
        parts = path.relative_to(root).parts if path != root else (path.name,)
        if kind == "database":  # <...>/<class>/<video>/frames.db: the folder names the video
            parts = parts[:-1] or (path.resolve().parent.name,)
        converted = kind == "database" and parts[0] == "jpg" and len(parts) > 1  # jpg/<class>/<video>
        parts = parts[1:] if converted else parts
        found.append((path, kind, tuple(map(clean_name, parts)), converted))
    tops = {parts[0] for _, _, parts, converted in found if len(parts) > 1 and not converted}
    only_splits = all(map(is_split_name, tops))
    for path, kind, (*folders, name), converted in found:
        split = None
        if folders and not converted and is_split_name(folders[0]) and (len(folders) > 1 or only_splits):
            split = split_name(folders.pop(0))
        label = folders[-1] if folders and folders[-1] != UNLABELED else None
        name = clean_name(strip_extension(name)) if kind == "video" else name
        target = f"{label or UNLABELED}/{name}"
        try:
            _check_target(target)
        except ValueError as error:
            listing.problems.append(Problem(str(path), None, str(error)))
        else:
            listing.jobs.append(Job(str(path), kind, target, label, split))
    return listing


def _walk(
    path: Path, listing: Listing, *, skip: Path | None = None, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, str]]:
    """Yield (path, kind) of each source; record ignored files and problems in `listing`.

    Args:
        path: file or folder.
        listing: receives the ignored files and problems.
        skip: resolved folder to leave out.
        above: device and inode of the folders that contain `path`, to detect links to them.
    """
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
    try:
        status = path.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            listing.problems.append(Problem(str(path), None, "a link to a folder that contains it"))
            return
        if skip is not None and path.resolve() == skip:
            listing.ignored.append(str(path))
            return
        if (path / DATABASE_NAME).is_file():
            yield path / DATABASE_NAME, "database"
            return
        frames = numbered_jpegs(path)
        children = sorted(path.iterdir())
    except (OSError, ValueError) as error:
        listing.problems.append(Problem(str(path), None, str(error)))
        return
    if frames:
        yield path, "jpegs"
    for child in children:
        if child.name.startswith("."):
            listing.ignored.append(str(child))
        elif not (frames and child.is_file() and _NUMBERED.fullmatch(child.name)):
            yield from _walk(child, listing, skip=skip, above=above | {here})


def _from_labels(file: Path, videos: Path, first_number: int | None) -> Listing:
    listing = Listing([], [], [])
    faults = SegmentFaults(skip=True)
    rows = read_label_files([file], first_number=first_number, faults=faults).rows
    listing.problems += [Problem(str(file), None, fault) for fault in faults.skipped]
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: folder of videos not found; set it with --videos")
    finder = PathFinder(videos)
    by_name: dict[str, list[Path]] = defaultdict(list)
    if any(row.path is None for row in rows):
        for path, kind in _walk(videos, Listing([], [], [])):
            name = path.parent.name if kind == "database" else path.name
            by_name[clean_name(strip_extension(name) if kind == "video" else name)].append(path)
    for row, folder in zip(rows, folder_names(rows), strict=True):
        target = f"{row.label or UNLABELED}/{folder}"
        try:
            _check_target(target)
            path, whole = _find_video(row, folder, finder, by_name)
        except ValueError as error:
            listing.problems.append(Problem(row.path or row.name, target, str(error)))
            continue
        start, stop = (None, None) if whole else (row.start, row.stop)
        path, kind = _kind_of(path)
        split = None if row.split is None else split_name(row.split)
        listing.jobs.append(Job(str(path), kind, target, row.label, split, start, stop))
    return listing


def _kind_of(path: Path) -> tuple[Path, str]:
    if path.is_dir() and (path / DATABASE_NAME).is_file():
        path = path / DATABASE_NAME
    return path, "jpegs" if path.is_dir() else "database" if path.name == DATABASE_NAME else "video"


def _find_video(row: LabelRow, folder: str, finder: PathFinder, by_name: dict[str, list[Path]]) -> tuple[Path, bool]:
    """Return (source, whether it is already cut to the times of the row)."""
    videos = finder.folder
    if row.path is not None:
        path = finder.find(row.path)
        if path is None:
            raise ValueError(f"{videos / row.path} does not exist")
        return path, False
    # names of cut clips, names in the list, and names used by downloaders of ActivityNet and HACS
    for name, whole in ((folder, True), (row.folder_name, True), (row.name, False), (f"v_{row.name}", False)):
        found = by_name.get(name, [])
        if len(found) > 1:  # the class folder tells videos with one name apart
            found = [path for path in found if clean_name(path.parent.name) == row.label] or found
        if name == row.folder_name != folder and whole:
            continue  # several clips start in the same second: a file with that name can be any of them
        if len(found) > 1:
            raise ValueError(f"several videos with this name: {', '.join(map(str, sorted(found)))}; keep one")
        if found:
            return found[0], whole
    raise ValueError(f"no video {row.name}.* below {videos}")


def _check_target(target: str) -> None:
    parts = target.split("/")
    if len(parts) != 2 or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise ValueError(f"target {target!r} is not of the form <class>/<video>; rename the class or the video")
    for part in parts:
        if len(part.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"the name {part[:40]!r}... has {len(part.encode())} bytes, more than a file system allows"
                f" ({_LONGEST_NAME}); shorten it"
            )


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
