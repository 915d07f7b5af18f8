"""`vidseg learn`: inspect, convert, split, train, test, report; each step once, and every decision printed.

OUT/learn.json     state of the steps
OUT/data           converted videos and catalog
OUT/probe          with published weights: a linear classifier on frozen features
OUT/run            the trained network
OUT/report.html    scores, curves, confusions, mistakes, decisions, next steps, commands
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidseg.convert import ConversionReport, ConvertOptions, convert_videos
from vidseg.frames.schema import DATABASE_NAME
from vidseg.labels import VideoDataset, open_dataset, scan_catalog
from vidseg.labels.catalog import catalog_path, read_catalog
from vidseg.labels.splitting import divide_videos
from vidseg.learn.choices import Choices, choose_splitting, option_words
from vidseg.learn.inspection import Inspection, inspect_videos
from vidseg.learn.learn_options import LearnOptions
from vidseg.learn.step_state import Steps

__all__ = ["Learned", "learn"]

_SHORT_SIDE = 128  # smallest default of converted frames
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Learned:
    """Result of `learn`.

    Attributes:
        task: recognition, detection or segmentation.
        folder: of all results.
        run: folder of the tested run.
        report: the HTML page.
        scores: of the test, by name.
        failed: `<video>: <reason>` of every video that could not be used.
        commands: that repeat each step.
        advice: what to do next.
    """

    task: str
    folder: Path
    run: Path
    report: Path
    scores: dict[str, float]
    failed: list[str]
    commands: list[str]
    advice: list[str] = field(default_factory=list)


@dataclass
class Progress:
    """What the steps of a task share: options, facts about the source, decisions, and commands that repeat them."""

    options: LearnOptions
    found: Inspection
    steps: Steps
    choices: Choices
    say: Callable[[str], None]
    commands: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Folder of all results."""
        return self.options.out

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.options.out / "data"

    def command(self, *words: object) -> None:
        """Note a command that repeats a step."""
        self.commands.append(shlex.join(["vidseg", *map(str, words)]))

    def step(self, name: str, inputs: Any, work: Callable[[bool], Any], *, files: tuple[Path, ...] = ()) -> Any:
        """Do a step unless it is finished; says which."""
        result = self.steps.run(name, inputs, work, files=files)
        self.say(f"{name}: {'finished before' if result['skipped'] else f'{self.steps.seconds(name):.1f} s'}")
        return result


def learn(videos: str | Path, options: LearnOptions | None = None, *, say: Callable[[str], None] = print) -> Learned:
    """Train and test a network on the videos of a folder, and write a report.

    Killed at any time, the same call continues: finished steps are skipped, training continues from its checkpoint.
    Steps whose videos, labels or options changed are done again.

    Args:
        videos: folder of videos: `<class>/<video>`, or any folder with a label file.
        options: decisions of the user; default: all follow from the videos.
        say: receives each decision and each finished step as one line.

    Raises:
        FileNotFoundError: the folder, the labels, or the published weights do not exist.
        ValueError: there is nothing to learn from, or an option is out of its range.
    """
    options = options or LearnOptions()
    videos = Path(videos)
    found = inspect_videos(videos, options.labels, task=options.task, skip=options.out)
    say(f"{videos}: {found}")
    choices = Choices(say)
    if found.labels is not None:
        choices.add("labels", found.labels, "", "--labels", given=options.labels is not None)
    reason = "class folders" if found.labels is None else f"the form of {found.labels.name}"
    choices.add("task", found.task, reason, "--task", given=options.task is not None)
    progress = Progress(options, found, Steps(options.out, overwrite=options.overwrite), choices, say)
    if found.task == "recognition":
        from vidseg.learn.learn_recognition import learn_recognition

        return learn_recognition(progress)
    from vidseg.learn.learn_times import learn_times

    return learn_times(progress)


def convert_source(
    progress: Progress, source: Path, root: Path, *, name: str, size: int, videos: Path | None = None
) -> VideoDataset:
    """Convert the videos of a source to frame databases; those of an earlier source that are gone are removed.

    Args:
        progress: of the command.
        source: folder of videos, or label file.
        root: folder of the data set.
        name: of the step.
        size: height and width of clips, which the size of frames follows from.
        videos: folder of the videos of a label file.
    """
    options, found = progress.options, progress.found
    fps = options.fps or found.common_rate
    if fps is not None:
        reason = f"the videos have {min(found.rates):g} to {max(found.rates):g}" if found.rates else ""
        progress.choices.add("frame rate", f"{fps:g} per second", reason, "--fps", given=options.fps is not None)
    side = options.short_side or max(_SHORT_SIDE, round(size * 8 / 7))
    progress.choices.add(
        "frames", f"short side at most {side} pixels", f"clips of {size}x{size}", "--short-side",
        given=options.short_side is not None,
    )  # fmt: skip
    chosen = ConvertOptions(size=str(side), fps=fps, workers=options.workers, overwrite=options.overwrite)
    words = option_words({"size": side, "fps": fps, "videos": videos})
    progress.command("convert", source, root, *words)

    def work(_: bool) -> dict[str, Any]:
        report = convert_videos(source, root, options=chosen, videos=None if videos is None else str(videos))
        if any(outcome.other_options for outcome in report.outcomes):
            report = convert_videos(
                source, root, options=chosen, videos=None if videos is None else str(videos), overwrite=True
            )
        if report.stopped:
            raise RuntimeError(f"conversion to {root} stopped: {report.stopped}")
        _remove_others(root, report)
        failed = [f"{one.source}: {one.problem}" for one in report.problems()]
        return {"failed": failed, "videos": sum(one.frames > 0 for one in report.outcomes)}

    labels = found.labels
    inputs = [found.sources, chosen.recorded(), str(source), None if labels is None else _content(labels)]
    result = progress.step(name, inputs, work, files=(catalog_path(root),))
    progress.failed += [one for one in result["failed"] if one not in progress.failed]
    for one in result["failed"]:
        progress.say(f"not converted, or damaged: {one}")
    if not result["videos"]:
        raise ValueError(f"{source}: none of the {len(result['failed'])} videos could be converted")
    return open_dataset(root)


def divide(progress: Progress, root: Path, existing: list[str]) -> dict[str, int]:
    """Make the splits train, val and test where the data set has none of its own; returns their numbers of videos.

    Args:
        progress: of the command.
        root: folder of the data set.
        existing: names of the splits that the labels or folders define.
    """
    options, data = progress.options, open_dataset(root)
    names = [data.video_path(row).removeprefix("jpg/") for row in range(len(data))]
    arguments = choose_splitting(options, names, existing, progress.choices)
    if arguments is None:
        return {name: len(open_dataset(root, name)) for name in existing}
    words = option_words({"by_group": arguments["group"], "seed": arguments["seed"]})
    progress.command("labels", "split", root, *map(str, arguments["fractions"]), *words, "--replace")

    def work(_: bool) -> dict[str, Any]:
        report = divide_videos(
            root, arguments["fractions"], names=_PARTS, group=arguments["group"], seed=arguments["seed"], replace=True
        )
        return {"splits": report.splits, "missing": report.missing}

    result = progress.step("split", [arguments, content_of(root)], work)
    splits: dict[str, int] = result["splits"]
    progress.say("videos in the splits: " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    if result["missing"]:
        progress.say(f"splits without a video of a class: {', '.join(result['missing'])}")
    return splits


def content_of(root: Path, *, splits: bool = False) -> list[Any]:
    """Return what training depends on: path, class, frames and size of each video; the splits if they are wanted."""
    with read_catalog(root) as connection:
        rows = connection.execute(
            "SELECT v.path, c.name, v.frames, v.size_bytes FROM videos v LEFT JOIN classes c ON c.id = v.class_id"
            " ORDER BY v.path"
        ).fetchall()
        times = connection.execute(
            "SELECT v.path, s.start, s.stop, c.name FROM segments s JOIN videos v ON v.id = s.video_id"
            " JOIN classes c ON c.id = s.class_id ORDER BY 1, 2, 3, 4"
        ).fetchall()
        members = connection.execute(
            "SELECT s.name, v.path FROM split_videos JOIN videos v ON v.id = video_id"
            " JOIN splits s ON s.id = split_id ORDER BY 1, 2"
        ).fetchall()
    return [rows, times, members if splits else []]


def _remove_others(root: Path, report: ConversionReport) -> None:
    """Delete databases of videos that the source does not have any more; the folder belongs to this command."""
    wanted = {outcome.target for outcome in report.outcomes if outcome.frames}
    others = [
        path.parent
        for path in (root / "jpg").glob(f"*/*/{DATABASE_NAME}")
        if path.parent.relative_to(root / "jpg").as_posix() not in wanted
    ]
    for folder in others:
        shutil.rmtree(folder)
    if others:
        scan_catalog(root)


def _content(path: Path) -> Any:
    """Return the content of a label file, or of the files of a folder, for comparison."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return [(str(one), one.read_bytes().decode("utf-8", "replace")) for one in files]
