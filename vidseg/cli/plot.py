"""`vidseg plot`: pictures of videos and of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from vidseg.frames import FrameDatabase

__all__ = ["Command"]


@dataclass(frozen=True)
class Contact:
    """Draw a contact sheet with time codes: of one video, or of a data set with one row for each class."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db or its folder, or the folder of a data set."""
    out: str | None = None
    """Picture to write; default: contact.png in the present folder."""
    columns: int = 6
    """Frames in a row."""
    rows: int | None = None
    """Rows of the sheet (of a data set: videos); default: a frame a second, 2 to 6 rows (of a data set: 8)."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.plots import contact_sheet

        videos = self._videos()
        rows = self.rows if len(videos) == 1 else None
        print(contact_sheet(videos, self.out or "contact.png", columns=self.columns, rows=rows))
        return 0

    def _videos(self) -> list[tuple[str, FrameDatabase]]:
        from vidseg.frames import FrameDatabase
        from vidseg.labels import open_dataset

        path = Path(self.path)
        if not (path / "catalog.db").is_file():
            database = FrameDatabase(path)
            return [(database.name, database)]
        first: dict[str, FrameDatabase] = {}
        data = open_dataset(path)
        for index in range(len(data)):
            video = data[index]
            title = data.classes[video.label] if video.label >= 0 else video.name
            if title not in first:
                first[title] = FrameDatabase(video.path)
            if len(first) == (self.rows or 8):
                break
        return list(first.items())


@dataclass(frozen=True)
class Curves:
    """Draw loss and accuracy of a run over its epochs."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left."""
    out: str | None = None
    """Picture to write; default: RUN/curves.png."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.plots import plot_curves

        run = Path(self.run_folder)
        print(plot_curves(run, self.out or run / "curves.png", title=_title(run)))
        return 0


@dataclass(frozen=True)
class Speed:
    """Draw how fast loader, forward and backward pass of a run were, and how long it waited."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left."""
    out: str | None = None
    """Picture to write; default: RUN/speed.png."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.plots import plot_speeds

        run = Path(self.run_folder)
        print(plot_speeds(run, self.out or run / "speed.png", title=_title(run)))
        return 0


@dataclass(frozen=True)
class Confusion:
    """Draw which class is taken for which, from the last `vidseg test RUN`."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder that `vidseg train` left and `vidseg test` has been through."""
    out: str | None = None
    """Picture to write; default: RUN/confusion.png."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        import json

        from vidseg.plots import plot_confusion

        run = Path(self.run_folder)
        result = run / "test.json"
        if not result.is_file():
            raise FileNotFoundError(f"{result}: not there; run `vidseg test {run}` first")
        report = json.loads(result.read_text())
        out = self.out or run / "confusion.png"
        print(plot_confusion(report["confusion"], report["classes"], out, title=_title(run)))
        return 0


@dataclass(frozen=True)
class Segments:
    """Draw bars of true and predicted frame labels, with the classes' colors.

    FOLDER has `<video>-gt.txt` and `<video>-pred.txt` files with a class name a line, as evaluation leaves them; or it
    has `<video>.txt` files, and PREDICTIONS those of the predictions.
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder of the label files."""
    mapping: Annotated[Positional[Path], arg(metavar="MAPPING")]
    """mapping.txt with the classes' numbers."""
    predictions: Path | None = None
    """Folder of the predictions, where they are not in FOLDER."""
    out: Path = Path("segments.png")
    """Picture with all videos on a page; or, without a suffix, a folder for one picture a video and the palette."""
    bundle: Path | None = None
    """Draw the videos of this split only."""
    videos: tuple[str, ...] = ()
    """Draw these videos only."""
    rows: int = 25
    """Videos on a page; the worst ones are drawn."""
    sliding_windows: int | None = None
    """Frames of the model's window: ticks are at its borders."""
    palette: Literal["bright", "voc"] = "bright"
    """Colors of the classes; voc are those of PASCAL VOC."""
    truncate: bool = False
    """Cut two sides of unequal lengths to the shorter one."""

    def run(self) -> int:
        """Draw, and print the pictures' paths."""
        import sys

        from vidseg.labels.predictions import read_predictions
        from vidseg.plots import SegmentedVideo, plot_palette, plot_segments

        labels = read_predictions(
            self.folder, self.predictions, mapping=self.mapping, bundle=self.bundle, truncate=self.truncate
        )
        videos = [
            SegmentedVideo(name, truth, prediction)
            for name, truth, prediction in zip(labels.names, labels.truth, labels.prediction, strict=True)
            if not self.videos or name in self.videos
        ]
        missing = sorted(set(self.videos) - set(labels.names))
        if missing:
            raise ValueError(f"{self.folder}: no video {missing[0]!r}; there are {', '.join(labels.names)}")
        if self.out.suffix:
            videos.sort(key=lambda video: (video.truth == video.prediction).mean())
            left_out = max(0, len(videos) - self.rows)
            title = f"the worst {self.rows} of {len(videos)} videos" if left_out else ""
            pages = [(videos[: self.rows], self.out, title)]
        else:
            pages = [([video], self.out / f"{video.name}.png", "") for video in videos]
            print(plot_palette(labels.classes, self.out / "palette.png", palette=self.palette))
        for page, path, title in pages:
            window = self.sliding_windows
            print(plot_segments(page, labels.classes, path, window=window, palette=self.palette, title=title))
        for failed in labels.failed:
            print(f"vidseg plot segments: {failed}", file=sys.stderr)
        return 1 if labels.failed else 0


@dataclass(frozen=True)
class Errors:
    """Draw what is wrong in predicted frame labels: F1 by class, mistakes, boundaries, and two confusion matrices.

    FOLDER, MAPPING and PREDICTIONS are those of `vidseg plot segments`.
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder of the label files."""
    mapping: Annotated[Positional[Path], arg(metavar="MAPPING")]
    """mapping.txt with the classes' numbers."""
    predictions: Path | None = None
    """Folder of the predictions, where they are not in FOLDER."""
    out: Path = Path()
    """Folder for errors.png, confusion_frames.png and confusion_segments.png."""
    bundle: Path | None = None
    """Take the videos of this split only."""
    background: tuple[str, ...] = ("background",)
    """Classes whose frames are no segments."""
    truncate: bool = False
    """Cut two sides of unequal lengths to the shorter one."""

    def run(self) -> int:
        """Draw, and print the pictures' paths."""
        import sys

        import numpy as np

        from vidseg.labels.predictions import read_predictions
        from vidseg.metrics import segmental_scores
        from vidseg.metrics.segmental_errors import boundary_offsets, frame_confusion, segment_confusion
        from vidseg.plots import plot_confusion, plot_segment_errors

        labels = read_predictions(
            self.folder, self.predictions, mapping=self.mapping, bundle=self.bundle, truncate=self.truncate
        )
        background = [labels.classes.index(name) for name in self.background if name in labels.classes]
        table = segmental_scores(labels.truth, labels.prediction, background=background)["classes"]
        used = np.array(table["number"])
        names = [labels.classes[number] for number in used]
        pair = labels.truth, labels.prediction
        frames, segments = (count(*pair, len(labels.classes)) for count in (frame_confusion, segment_confusion))
        frames, segments = frames[np.ix_(used, used)], segments[np.ix_(used, used)]
        print(plot_segment_errors(names, table["f1"], frames, boundary_offsets(*pair), self.out / "errors.png"))
        for unit, counts in (("frames", frames), ("segments", segments)):
            print(plot_confusion(counts.tolist(), names, self.out / f"confusion_{unit}.png", unit=unit))
        for failed in labels.failed:
            print(f"vidseg plot errors: {failed}", file=sys.stderr)
        return 1 if labels.failed else 0


@dataclass(frozen=True)
class Labels:
    """Draw how many frames and segments each class of a data set has, and how long its segments are."""

    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Folder of a data set with frame labels."""
    split: str | None = None
    """Split to take, such as split1/train; default: all videos."""
    out: str = "labels.png"
    """Picture to write."""

    def run(self) -> int:
        """Draw, and print the picture's path."""
        from vidseg.labels import open_dataset
        from vidseg.labels.statistics import label_statistics
        from vidseg.plots import plot_label_counts

        counts = label_statistics(open_dataset(self.data, self.split))
        title = " ".join(filter(None, (Path(self.data).resolve().name, self.split)))
        print(plot_label_counts(counts.classes, counts.frames, counts.seconds, self.out, title=title))
        return 0


@dataclass(frozen=True)
class Report:
    """Write a run of a segmentation program as one HTML page: scores, curves, bars of every video, worst first."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a cross-validation that a program of train/ left, or of one of its splits."""
    out: Path | None = None
    """Page to write; default: RUN/report.html."""

    def run(self) -> int:
        """Write, and print the page's path."""
        from vidseg.plots.report import write_report

        print(write_report(self.run_folder, self.out or self.run_folder / "report.html"))
        return 0


def _title(run: Path) -> str:
    """What the run trained on what, or the name of its folder where its options are not recorded."""
    import json

    if not (run / "options.json").is_file():
        return run.resolve().name
    options = json.loads((run / "options.json").read_text())["options"]
    return f"{options['network']} on {Path(options['dataset']).resolve().name}"


Command = (
    Annotated[Contact, tyro.conf.subcommand("contact")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Confusion, tyro.conf.subcommand("confusion")]
    | Annotated[Speed, tyro.conf.subcommand("speed")]
    | Annotated[Segments, tyro.conf.subcommand("segments")]
    | Annotated[Errors, tyro.conf.subcommand("errors")]
    | Annotated[Labels, tyro.conf.subcommand("labels")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
