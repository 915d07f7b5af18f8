"""Plots of data sets and of predictions in files: contact sheets, labels, segments, detections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vidseg.cli.plot_runs import run_title, test_report, tested_videos
from vidseg.cli.plot_theme import Themed

if TYPE_CHECKING:
    from vidseg.frames import FrameDatabase, FrameDatabaseError
    from vidseg.plots import SegmentedVideo

__all__ = ["Contact", "Detections", "Errors", "Flow", "Labels", "Segments"]


@dataclass(frozen=True)
class Contact(Themed):
    """Plot a contact sheet with timestamps of one video, or of a data set with one row per class.

    Videos that were converted from damaged files have an orange edge and the damage beside them.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db or its folder, or the folder of a data set."""
    out: str | None = None
    """Output file; default: contact.png in the current folder."""
    columns: int = 6
    """Frames per row."""
    rows: int | None = None
    """Number of rows; default: 2 to 6 for about one frame per second, or 8 videos of a data set."""

    def draw(self) -> int:
        """Plot, and print the path of the file; a video that cannot be read is marked in it."""
        import sys

        from vidseg.frames import FrameDatabaseError
        from vidseg.plots import contact_sheet

        videos = self._videos()
        rows = self.rows if len(videos) == 1 else None
        print(contact_sheet(videos, self.out or "contact.png", columns=self.columns, rows=rows))
        unread = [video for _, video in videos if isinstance(video, FrameDatabaseError)]
        for error in unread:
            print(f"vidseg plot contact: {error}", file=sys.stderr)
        return 1 if unread else 0

    def _videos(self) -> list[tuple[str, FrameDatabase | FrameDatabaseError]]:
        from vidseg.frames import FrameDatabase, FrameDatabaseError
        from vidseg.labels import open_dataset

        path = Path(self.path)
        if not (path / "catalog.db").is_file():
            database = FrameDatabase(path)
            return [(database.name, database)]
        first: dict[str, FrameDatabase | FrameDatabaseError] = {}
        data = open_dataset(path)
        for index in range(len(data)):
            video = data[index]
            title = data.classes[video.label] if video.label >= 0 else video.name
            if title not in first:
                try:
                    first[title] = FrameDatabase(video.path)
                except FrameDatabaseError as error:
                    first[title] = error
            if len(first) == (self.rows or 8):
                break
        return list(first.items())


@dataclass(frozen=True)
class Flow(Themed):
    """Draw the motion of a video beside its frames, as a picture or a video.

    The color is the direction in which a pixel moves, its saturation how far: right is red, down yellow, left cyan, up
    violet. Residuals are gray where they are 0.
    """

    path: Annotated[Positional[Path], arg(metavar="PATH")]
    """A video file; a flow.db, motion.db or residual.db; the folder of a video's databases; or that of a data set."""
    modality: Literal["flow", "motion", "residual"] | None = None
    """Optical flow, motion vectors or residuals; default: motion vectors of a video file, or the first of these that
    has a database."""
    video: str | None = None
    """Name of the video of a data set; default: the first one."""
    frames: int = 6
    """Number of frames of a picture, evenly spaced."""
    radius: float | None = None
    """Length in pixels that is fully saturated; default: that of the longest vectors of some frames."""
    size: str = "256"
    """Frame size of a video file: maximum short side in pixels, WIDTHxHEIGHT, or "none"."""
    out: Path = Path("flow.png")
    """Output file: .png, .pdf or .svg for some frames; .mp4 for the whole video."""

    def draw(self) -> int:
        """Draw, and print the path of the file."""
        from vidseg.engine.flow_pictures import draw_flow

        path = self.path
        if (path / "catalog.db").is_file():
            path = self._folder()
        elif self.video is not None:
            raise ValueError(f"--video is the name of a video of a data set; {path} is none")
        out = draw_flow(path, self.out, modality=self.modality, frames=self.frames, radius=self.radius, size=self.size)
        print(out)
        return 0

    def _folder(self) -> Path:
        """Folder of the databases of one video of the data set."""
        from vidseg.labels import open_dataset

        data = open_dataset(self.path)
        names = [data[index].name for index in range(len(data))]
        if self.video is not None and self.video not in names:
            raise ValueError(f"{self.path}: unknown video {self.video!r}; the first one is {names[0]!r}")
        return Path(data[0 if self.video is None else names.index(self.video)].path).parent


@dataclass(frozen=True)
class _FrameLabels(Themed):
    """True and predicted frame labels of a run, or of label files."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder of a run, or of label files."""
    mapping: Annotated[Positional[Path | None], arg(metavar="[MAPPING]")] = None
    """mapping.txt with the class numbers, for label files."""
    predictions: Path | None = None
    """Folder of the predictions if they are not in FOLDER."""
    bundle: Path | None = None
    """Split file whose videos are used."""
    background: tuple[str, ...] | None = None
    """Background classes, whose runs are not segments and whose color is gray; default: those of the run, or
    background."""
    truncate: bool = False
    """Truncate videos of unequal lengths to the shorter side."""

    def read(self) -> _Labeled:
        """Read the labels.

        Raises:
            ValueError: the folder is neither a tested run nor one of label files, or options do not fit it.
        """
        from vidseg.labels.predictions import read_predictions
        from vidseg.plots import SegmentedVideo

        if self.mapping is None:
            if not (self.folder / "test.json").is_file() and self.folder.suffix != ".json":
                raise ValueError(
                    f"{self.folder}: has no test.json; test the run first with `vidseg test {self.folder}`, or give "
                    "MAPPING for a folder of label files"
                )
            for name in ("predictions", "bundle"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is for label files, with MAPPING; {self.folder} is a run")
            report, run = test_report(self.folder)
            classes = list(report["classes"])
            background = self.background
            if background is None:
                background = tuple(classes[number] for number in report.get("background", ()))
            return _Labeled(tested_videos(report), classes, background, [], run, run_title(run))
        labels = read_predictions(
            self.folder, self.predictions, mapping=self.mapping, bundle=self.bundle, truncate=self.truncate
        )
        videos = [
            SegmentedVideo(name, truth, prediction)
            for name, truth, prediction in zip(labels.names, labels.truth, labels.prediction, strict=True)
        ]
        background = ("background",) if self.background is None else self.background
        return _Labeled(videos, list(labels.classes), background, labels.failed, Path(), "")


@dataclass(frozen=True)
class _Labeled:
    """Labeled videos; `failed` names those that could not be read, `folder` is that of the pictures by default."""

    videos: list[SegmentedVideo]
    classes: list[str]
    background: tuple[str, ...]
    failed: list[str]
    folder: Path
    title: str

    def finish(self, command: str) -> int:
        """Print the videos that could not be read; returns the exit status."""
        import sys

        for failed in self.failed:
            print(f"vidseg plot {command}: {failed}", file=sys.stderr)
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Segments(_FrameLabels):
    """Plot true and predicted frame labels as colored bars.

    FOLDER is a segmentation or streaming run that `vidseg test` has evaluated. Or it holds label files `<video>-gt.txt`
    and `<video>-pred.txt` with one class name per line, or `<video>.txt` with the predictions in --predictions; then
    MAPPING is needed.
    """

    out: Path | None = None
    """Output file with all videos; without extension, output folder of one file per video and the palette. Default:
    segments.png, in the folder of the run if FOLDER is one."""
    videos: tuple[str, ...] = ()
    """Names of the videos to plot; default: all."""
    rows: int = 25
    """Maximum number of videos per page; those with the lowest accuracy are plotted."""
    sliding_windows: int | None = None
    """Window length of the model in frames; ticks are at its multiples."""
    palette: Literal["bright", "voc"] = "bright"
    """Class colors; voc: those of PASCAL VOC."""

    def draw(self) -> int:
        """Plot, and print the paths of the files."""
        from vidseg.plots import plot_palette, plot_segments

        found = self.read()
        classes, background = found.classes, found.background
        videos = [video for video in found.videos if not self.videos or video.name in self.videos]
        missing = sorted(set(self.videos) - {video.name for video in found.videos})
        if missing:
            known = ", ".join(video.name for video in found.videos)
            raise ValueError(f"{self.folder}: unknown video {missing[0]!r}; expected one of {known}")
        out = self.out or found.folder / "segments.png"
        if out.suffix:
            videos.sort(key=lambda video: (video.truth == video.prediction).mean())
            left_out = max(0, len(videos) - self.rows)
            title = f"{self.rows} of {len(videos)} videos, lowest accuracy" if left_out else ""
            pages = [(videos[: self.rows], out, title)]
        else:
            pages = [([video], out / f"{video.name}.png", "") for video in videos]
            print(plot_palette(classes, out / "palette.png", palette=self.palette, background=background))
        for page, path, title in pages:
            window, palette = self.sliding_windows, self.palette
            print(
                plot_segments(page, classes, path, window=window, palette=palette, title=title, background=background)
            )
        return found.finish("segments")


@dataclass(frozen=True)
class Errors(_FrameLabels):
    """Plot errors of predicted frame labels: F1 by class, confusions, boundary offsets, and two confusion matrices.

    FOLDER, MAPPING and PREDICTIONS are those of `vidseg plot segments`.
    """

    out: Path | None = None
    """Output folder of errors.png, confusion_frames.png and confusion_segments.png; default: the folder of the run if
    FOLDER is one, else the current folder."""

    def draw(self) -> int:
        """Plot, and print the paths of the files."""
        import numpy as np

        from vidseg.metrics import segmental_scores
        from vidseg.metrics.segmental_errors import boundary_offsets, frame_confusion, segment_confusion
        from vidseg.plots import plot_confusion, plot_segment_errors

        found = self.read()
        out = found.folder if self.out is None else self.out
        truth = [video.truth for video in found.videos]
        prediction = [video.prediction for video in found.videos if video.prediction is not None]
        background = [found.classes.index(name) for name in found.background if name in found.classes]
        table = segmental_scores(truth, prediction, background=background)["classes"]
        used = np.array(table["number"])
        names = [found.classes[number] for number in used]
        frames, segments = (
            count(truth, prediction, len(found.classes))[np.ix_(used, used)]
            for count in (frame_confusion, segment_confusion)
        )
        offsets, title = boundary_offsets(truth, prediction), found.title
        print(plot_segment_errors(names, table["f1"], frames, offsets, out / "errors.png", title=title))
        for unit, counts in (("frames", frames), ("segments", segments)):
            print(plot_confusion(counts.tolist(), names, out / f"confusion_{unit}.png", unit=unit, title=title))
        return found.finish("errors")


@dataclass(frozen=True)
class Detections(Themed):
    """Plot detections: timelines of truth and detections, precision-recall curves, and the false-positive profile.

    `vidseg score` prints the same scores.
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="TRUTH ... RESULTS.json")]
    """Data set or annotation files, and the file of detections last, as for `vidseg score`."""
    out: Path = Path()
    """Output folder of timelines.png, precision_recall.png and false_positives.png."""
    protocol: str = "activitynet"
    """activitynet, thumos14, hacs, fineaction, epic, ego4d, multithumos or charades."""
    thresholds: tuple[float, ...] = ()
    """IoU thresholds; default: those of the protocol."""
    split: str | None = None
    """Split that is plotted; default: the only one besides train that has segments."""
    blocked: Path | None = None
    """Videos to leave out: one name per line, or a JSON list."""
    level: Literal["verb", "noun", "action"] = "verb"
    """Classes of EPIC-Kitchens' annotation."""
    classes: Path | None = None
    """Class list of annotation files with class numbers."""
    videos: tuple[str, ...] = ()
    """Names of the videos in timelines.png; default: the first ones."""
    rows: int = 8
    """Maximum number of videos in timelines.png."""
    min_score: float = 0.2
    """Smallest score of the detections in timelines.png."""

    def draw(self) -> int:
        """Plot, and print the paths of the files."""
        from vidseg.tasks.detection.result_pictures import draw_scores
        from vidseg.tasks.detection.result_scores import pair_files, score_pair

        pair = pair_files(
            self.files[:-1],
            self.files[-1],
            protocol=self.protocol,
            thresholds=self.thresholds,
            split=self.split,
            blocked=self.blocked,
            level=self.level,
            classes=self.classes,
        )
        scores = score_pair(pair)
        files = draw_scores(scores, self.out, videos=self.videos, most=self.rows, min_score=self.min_score)
        print("\n".join(map(str, files)))
        return 0


@dataclass(frozen=True)
class Labels(Themed):
    """Plot frames, segments and durations of each class of a data set."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Folder of a data set with frame labels."""
    split: str | None = None
    """Split to plot, such as split1/train; default: all videos."""
    out: str = "labels.png"
    """Output file."""

    def draw(self) -> int:
        """Plot, and print the path of the file."""
        from vidseg.labels import open_dataset
        from vidseg.labels.statistics import label_statistics
        from vidseg.plots import plot_label_counts

        counts = label_statistics(open_dataset(self.data, self.split))
        title = " ".join(filter(None, (Path(self.data).resolve().name, self.split)))
        print(plot_label_counts(counts.classes, counts.frames, counts.seconds, self.out, title=title))
        return 0
