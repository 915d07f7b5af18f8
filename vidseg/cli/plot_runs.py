"""Plots of runs from the files that training and tests leave: curves, speeds, confusions, calibration, the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vidseg.cli.plot_theme import Themed

if TYPE_CHECKING:
    from vidseg.plots import SegmentedVideo

__all__ = ["Calibration", "Confusion", "Curves", "Report", "Speed", "run_title", "test_report", "tested_videos"]


@dataclass(frozen=True)
class Curves(Themed):
    """Plot loss and accuracy of a run over its epochs."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of a run of `vidseg train`."""
    out: str | None = None
    """Output file; default: RUN/curves.png."""

    def draw(self) -> int:
        """Plot, and print the path of the file."""
        from vidseg.plots import plot_curves

        run = Path(self.run_folder)
        print(plot_curves(run, self.out or run / "curves.png", title=run_title(run)))
        return 0


@dataclass(frozen=True)
class Speed(Themed):
    """Plot the speed of loader, forward and backward pass of a run, and the time spent waiting."""

    run_folder: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of a run of `vidseg train`."""
    out: str | None = None
    """Output file; default: RUN/speed.png."""

    def draw(self) -> int:
        """Plot, and print the path of the file."""
        from vidseg.plots import plot_speeds

        run = Path(self.run_folder)
        print(plot_speeds(run, self.out or run / "speed.png", title=run_title(run)))
        return 0


@dataclass(frozen=True)
class Confusion(Themed):
    """Plot the confusion matrix of `vidseg test RUN`: of videos, or of frames for segmentation and streaming runs."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a run that `vidseg test` has evaluated, or the JSON file of one of its tests."""
    out: str | None = None
    """Output file; default: RUN/confusion.png."""

    def draw(self) -> int:
        """Plot, and print the path of the file."""
        from vidseg.plots import plot_confusion

        report, run = test_report(self.run_folder)
        out = self.out or run / "confusion.png"
        if "confusion" in report:
            print(plot_confusion(report["confusion"], report["classes"], out, title=run_title(run)))
            return 0
        from vidseg.metrics.segmental_errors import frame_confusion

        videos, classes = tested_videos(report), report["classes"]
        predictions = [video.prediction for video in videos if video.prediction is not None]
        counts = frame_confusion([video.truth for video in videos], predictions, len(classes))
        print(plot_confusion(counts.tolist(), classes, out, title=run_title(run), unit="frames"))
        return 0


@dataclass(frozen=True)
class Calibration(Themed):
    """Plot the reliability diagram of a tested recognition run, and print its expected calibration error.

    With --validation, also finds the temperature that minimizes the log loss on those scores, and plots the diagram
    with it.
    """

    scores: Annotated[Positional[Path], arg(metavar="RUN|SCORES")]
    """Folder of a recognition run that `vidseg test` has evaluated, or a file of scores, .npz or .csv."""
    validation: Path | None = None
    """Scores of a validation split, such as RUN/scores_val.npz of `vidseg test RUN --split val`; its videos must not
    be those of SCORES."""
    bins: int = 15
    """Bins of equal width."""
    out: Path | None = None
    """Output file; default: calibration.png in the folder of the scores."""
    json: bool = False
    """Print one JSON object instead of text."""

    def draw(self) -> int:
        """Plot, and print the errors and the path of the file."""
        import json

        import torch

        from vidseg.metrics import apply_temperature, fit_temperature, log_loss, reliability
        from vidseg.metrics.video_scores import check_apart, read_scores
        from vidseg.plots import plot_reliability

        def tensors(scores: Any) -> tuple[Any, Any]:
            scores.summary()  # refuses scores without labels
            known = scores.labels >= 0
            return torch.from_numpy(scores.scores[known]), torch.from_numpy(scores.labels[known])

        tested = read_scores(self.scores)
        probabilities, labels = tensors(tested)
        shown = {"as trained": probabilities}
        temperature = None
        if self.validation is not None:
            held_out = read_scores(self.validation)
            check_apart(held_out, tested, str(self.validation))
            temperature = fit_temperature(*tensors(held_out))
            shown[f"temperature {temperature:.3g}"] = apply_temperature(probabilities, temperature)
        found = {name: reliability(values, labels, bins=self.bins) for name, values in shown.items()}
        losses = {name: log_loss(values, labels) for name, values in shown.items()}
        folder = self.scores if self.scores.is_dir() else self.scores.parent
        out = plot_reliability(found, self.out or folder / "calibration.png", title=run_title(folder))
        if self.json:
            content = {name: {"ece": one.ece, "mce": one.mce, "log_loss": losses[name]} for name, one in found.items()}
            print(json.dumps({"temperature": temperature, "bins": self.bins, "file": str(out), "scores": content}))
            return 0
        for name, one in found.items():
            print(f"{name}: ECE {one.ece:.4f}   largest gap {one.mce:.4f}   log loss {losses[name]:.4f}")
        print(out)
        return 0


@dataclass(frozen=True)
class Report:
    """Write an HTML report of a tested run of any task: scores, curves, classes, confusions, mistakes with pictures or
    labels of every video, and the commands that repeat the result."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a run that has been tested, of a cross-validation, or the JSON file of one test."""
    out: Path | None = None
    """Output file; default: RUN/report.html."""

    def run(self) -> int:
        """Write the report, and print its path."""
        from vidseg.plots.run_page import write_report

        folder = self.run_folder.parent if self.run_folder.suffix == ".json" else self.run_folder
        print(write_report(self.run_folder, self.out or folder / "report.html"))
        return 0


def test_report(path: Path) -> tuple[dict[str, Any], Path]:
    """The report of a test, and the folder of its run.

    Raises:
        FileNotFoundError: the run has not been tested.
        ValueError: the file is not the report of a test.
    """
    import json

    result = path if path.suffix == ".json" else path / "test.json"
    if not result.is_file():
        raise FileNotFoundError(f"{result}: not found; run `vidseg test {path}` first")
    try:
        report = json.loads(result.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{result}: not JSON: {error}") from error
    if not isinstance(report, dict) or "classes" not in report:
        raise ValueError(f"{result}: not the report of a test; run `vidseg test` again")
    return report, result.parent


def tested_videos(report: dict[str, Any]) -> list[SegmentedVideo]:
    """True and predicted labels of the videos of a test of frame labels.

    Raises:
        ValueError: the test is of a recognition run.
    """
    import numpy as np

    from vidseg.plots import SegmentedVideo

    if "videos" not in report or not isinstance(report["videos"], list):
        raise ValueError("a recognition run has one class per video and no segments; see `vidseg plot confusion`")

    def labels(runs: list[list[int]]) -> Any:
        return np.repeat([label for label, _ in runs], [count for _, count in runs])

    return [
        SegmentedVideo(one["name"], labels(one["truth"]), labels(one["prediction"]), one.get("fps"))
        for one in report["videos"]
    ]


def run_title(run: Path) -> str:
    """Network and data set of a run, or the name of its folder where there is no record."""
    import json

    if not (run / "options.json").is_file():
        return run.resolve().name
    record = json.loads((run / "options.json").read_text(encoding="utf-8"))
    division = f", {record['division']}" if record["division"] else ""
    return f"{record['network']} on {Path(record['dataset']).name}{division}"
