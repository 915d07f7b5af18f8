"""Frame labels from the segments of untrimmed videos, so that segmentation and streaming networks can train on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vidseg.labels.catalog import write_catalog
from vidseg.labels.classes import add_classes, check_case, class_names
from vidseg.labels.counting import counted
from vidseg.labels.dataset import Segment
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import clean_name
from vidseg.labels.segmentation_labels import TIMELINES, labels_from_segments, segments_from_labels

__all__ = ["FrameLabelReport", "label_frames"]

_SAME_RATE = 1e-3  # relative difference of two rates below which labels and frames correspond one to one


@dataclass
class FrameLabelReport:
    """Result of a conversion of segments to frame labels.

    Attributes:
        videos: number of videos that received frame labels.
        labels: number of frame labels.
        segments: number of labeled segments of these videos.
        background: number of background segments added between them.
        unchanged: number of videos that had frame labels already.
        without_segments: paths of the videos without segments, which have no frame labels.
        skipped: description of each segment that labels nothing.
    """

    videos: int = 0
    labels: int = 0
    segments: int = 0
    background: int = 0
    unchanged: int = 0
    without_segments: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{counted(self.videos, 'video')}, {counted(self.labels, 'frame label')},"
            f" {counted(self.segments, 'segment')}, {counted(self.background, 'background segment')} added"
        ]
        if self.unchanged:
            lines.append(
                f"{counted(self.unchanged, 'video')} with frame labels unchanged; compute again with --replace"
            )
        if self.without_segments:
            more = ", ..." if len(self.without_segments) > 5 else ""
            lines.append(
                f"{counted(len(self.without_segments), 'video')} without segments and without frame labels:"
                f" {', '.join(self.without_segments[:5])}{more}; --empty labels them as background"
            )
        return "\n".join(lines)


def label_frames(
    root: str | Path,
    *,
    background: str,
    rate: float | None = None,
    empty: bool = False,
    replace: bool = False,
    faults: SegmentFaults | None = None,
) -> FrameLabelReport:
    """Convert the segments in the catalog of `root` to frame labels, in one transaction.

    Segments are kept; the gaps between them become segments of the background class. Where segments overlap, a frame
    has the label of the one with the later start.

    Args:
        root: folder of the data set.
        background: class of the frames outside all segments; added after the other classes if it does not exist.
        rate: labels per second; None: one label per frame of the video.
        empty: label videos without segments and without a class as background throughout.
        replace: compute existing frame labels again; segments of the background class are then replaced.
        faults: check of the segments; default: a segment that labels nothing is an error.

    Returns:
        The numbers of videos, labels and segments.

    Raises:
        ValueError: no video has segments, a duration is unknown, or a segment labels nothing; the catalog is unchanged.
        FileNotFoundError: the folder or its catalog does not exist.
    """
    faults, background = faults or SegmentFaults(), clean_name(background)
    if not background:
        raise ValueError("the background class has no name; set it with --background")
    if rate is not None and not 0 < rate < 1e6:
        raise ValueError(f"rate is {rate} labels per second, must be greater than 0 and below 1000000")
    report = FrameLabelReport(skipped=faults.skipped)
    with write_catalog(root, create=False) as db:
        connection = db.conn
        connection.execute(TIMELINES)
        check_case({background}, class_names(connection))
        class_id = add_classes(connection, [background])[background]
        names = dict(connection.execute("SELECT id, name FROM classes"))
        found: dict[int, list[Segment]] = {}
        for video, start, stop, label in connection.execute(
            "SELECT video_id, start, stop, class_id FROM segments ORDER BY video_id, start, stop DESC"
        ):
            found.setdefault(video, []).append(Segment(start, stop, label))
        if not found and not empty:
            raise ValueError(f"{root}: no video has segments; import them with `vidseg labels apply {root} LABELS.csv`")
        known = {video for (video,) in connection.execute("SELECT video_id FROM timelines")}
        videos = connection.execute(
            "SELECT id, path, frames, fps, seconds, class_id FROM videos ORDER BY path"
        ).fetchall()
        for video, path, frames, fps, seconds, own_class in videos:
            segments = found.get(video, [])
            if video in known and not replace:
                report.unchanged += 1
                continue
            if replace and video in known:
                segments = [segment for segment in segments if segment.label != class_id]
                connection.execute("DELETE FROM segments WHERE video_id = ? AND class_id = ?", (video, class_id))
            if not segments and video not in known and (own_class is not None or not empty):
                report.without_segments.append(path)
                continue
            if not (fps > 0 and seconds > 0):
                raise ValueError(
                    f"{path}: its frame rate and duration are unknown, as in databases of dataset2database 1.2; convert"
                    " the video again"
                )
            per_second = fps if rate is None else rate
            one_to_one = abs(per_second - fps) <= _SAME_RATE * fps
            count = frames if one_to_one else max(1, round(seconds * per_second))
            usable = []
            for segment in segments:
                times = faults.check(
                    segment.start,
                    segment.stop,
                    place=path,
                    label=names[segment.label],
                    seconds=max(seconds, count / per_second),
                    rate=per_second,
                )
                if times is not None:
                    usable.append(Segment(*times, segment.label))
            gap = max(names) + 1  # not a class: background segments of the label file are no gaps
            labels = labels_from_segments(usable, count, per_second, background=gap)
            gaps = segments_from_labels(labels, per_second, background=names)
            connection.executemany(
                "INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)",
                [(video, one.start, one.stop, class_id) for one in gaps],
            )
            connection.execute("INSERT OR REPLACE INTO timelines VALUES (?, ?, ?)", (video, count, per_second))
            report.videos += 1
            report.labels += count
            report.segments += len(usable)
            report.background += len(gaps)
    return report
