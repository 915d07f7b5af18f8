"""Detection and segmentation: a recognition network learns the labeled segments, its features the labels of times.

OUT/clips.csv      the labeled segments as clips, each in the split of its video
OUT/clips          converted clips
OUT/encoder        recognition network trained on them
OUT/data/features  its features of the whole videos
OUT/run            detector, or segmentation network
"""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

from vidseg.engine.distributed import process_device
from vidseg.engine.run_record import RECORD
from vidseg.frames.whole_file import whole_file
from vidseg.labels import (
    apply_detection,
    apply_segmentation,
    open_dataset,
    read_detection_labels,
    read_segmentation,
    segments_from_labels,
    write_label_csv,
)
from vidseg.labels.catalog import read_catalog
from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow
from vidseg.learn.choices import default_size, option_values, option_words
from vidseg.learn.learn_recognition import chosen_network, train_network
from vidseg.learn.learning import Learned, Progress, content_of, convert_source, divide
from vidseg.plots.run_page import write_report
from vidseg.tasks import load_trained
from vidseg.tasks.detection.recipes import recipe_options as detection_options
from vidseg.tasks.detection.runs import train_detection
from vidseg.tasks.recognition.feature_extraction import extract_features
from vidseg.tasks.recognition.trained import RecognitionModel
from vidseg.tasks.segmentation.cross_validation import cross_validate
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options

__all__ = ["learn_times"]

_STRIDE = 4  # video frames from one column of features to the next
_EPOCHS = {"detection": 40, "segmentation": 50}
_NETWORKS = {"detection": "actionformer", "segmentation": "mstcn"}
_BACKGROUND = "background"
_FEW = 50  # segments of a class


def learn_times(progress: Progress) -> Learned:
    """Do the steps of detection or segmentation; see `vidseg.learn.learning.learn`.

    Raises:
        ValueError: frame labels for videos of several rates, or labels without a segment.
    """
    found, options = progress.found, progress.options
    root, labels = progress.data, found.labels
    assert labels is not None  # inspect_videos refuses videos without
    rate = options.fps or found.common_rate
    if found.task == "segmentation" and rate is not None:
        raise ValueError(
            f"{labels}: frame labels count the frames of videos of one rate, but "
            + (f"--fps {options.fps:g} changes it" if options.fps else
               f"the videos have {min(found.rates):g} to {max(found.rates):g} frames per second")
        )  # fmt: skip
    segments, classes = _counted(progress, labels)
    network = chosen_network(progress, videos=segments, classes=classes)
    size = default_size(options, round(0.6 * segments), network["spec"])
    table = progress.out / "videos.csv"
    _list_videos(progress, table)
    convert_source(progress, table, root, name="convert", size=size, videos=found.videos)
    existing = _apply(progress, root, labels)
    splits = divide(progress, root, existing)
    division = _division(list(splits))
    clips = progress.out / "clips"
    counts = _cut(progress, root, division)
    convert_source(progress, progress.out / "clips.csv", clips, name="convert clips", size=size, videos=found.videos)
    encoder = train_network(
        progress, clips, network, train=counts["train"], run=progress.out / "encoder", name="train encoder"
    )
    _extract(progress, root, encoder)
    run, scores = _train(progress, root, division)
    advice = _next_steps(progress, root, counts, splits, scores, str(run))
    page = progress.out / "report.html"
    progress.command("plot", "report", run)
    notes = [("What to do next", advice), ("Decisions", progress.choices.lines)]
    if progress.failed:
        notes.append(("Videos that could not be read", progress.failed))
    progress.step(
        "report", [scores, notes, progress.commands],
        lambda _: {"page": str(write_report(run, page, notes=notes, commands=progress.commands))}, files=(page,),
    )  # fmt: skip
    progress.say("test: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    return Learned(found.task, progress.out, run, page, scores, progress.failed, progress.commands, advice)


def _counted(progress: Progress, labels: Path) -> tuple[int, int]:
    """Return the numbers of segments and classes; wrong files are refused before anything is converted."""
    if progress.found.task == "detection":
        detection = read_detection_labels([labels])
        names = {one.label for video in detection.videos.values() for one in video.segments}
        return sum(len(video.segments) for video in detection.videos.values()), len(names)
    frames = read_segmentation(labels, rate=1.0)
    segments = sum(len(segments_from_labels(values, 1.0)) for values in frames.labels.values())
    return segments, len(frames.classes)


def _list_videos(progress: Progress, table: Path) -> None:
    """Write the videos as a table of paths, so that folders do not become classes."""
    base = progress.found.videos.resolve()
    paths = [Path(job.source).resolve() for job in progress.found.listing.jobs]
    with whole_file(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path"])
        writer.writerows([path.relative_to(base) if path.is_relative_to(base) else path] for path in paths)


def _apply(progress: Progress, root: Path, labels: Path) -> list[str]:
    """Write the labels to the catalog; returns the splits that they define."""
    if progress.found.task == "detection":
        progress.command("labels", "segments", root, labels)
    else:
        rate = progress.found.rates[0] if progress.found.rates else 25.0
        program = (
            f"import vidseg.labels as labels; labels.apply_segmentation({str(root)!r}, "
            f"labels.read_segmentation({str(labels)!r}, rate={rate!r}))"
        )
        progress.commands.append(shlex.join(["python", "-c", program]))

    def work(_: bool) -> dict[str, Any]:
        if progress.found.task == "detection":
            report: Any = apply_detection(root, read_detection_labels([labels]))
        else:
            report = apply_segmentation(root, read_segmentation(labels, rate=rate))
        progress.say(str(report))
        return {"splits": sorted(report.splits), "without_frames": report.without_frames}

    videos = [(row[0], row[2], row[3]) for row in content_of(root)[0]]
    content = [(str(path), path.read_text("utf-8", "replace")) for path in _files(labels)]
    result = progress.step("labels", [content, videos], work)
    if result["without_frames"]:
        progress.failed.append(f"{labels}: {counted(result['without_frames'], 'labeled video')} without a video file")
    return [name for name in result["splits"] if name]


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _division(splits: list[str]) -> str:
    """Return the division that is learned: "" for train and test, else the first one."""
    return min(name.rpartition("/")[0] for name in splits)


def _cut(progress: Progress, root: Path, division: str) -> dict[str, int]:
    """List the labeled segments as clips in the splits of their videos; returns their numbers by split."""
    with read_catalog(root) as connection:
        rows = connection.execute(
            "SELECT v.path, s.start, s.stop, c.name, p.name FROM segments s JOIN videos v ON v.id = s.video_id"
            " JOIN classes c ON c.id = s.class_id JOIN split_videos m ON m.video_id = v.id"
            " JOIN splits p ON p.id = m.split_id WHERE v.size_bytes > 0 ORDER BY v.path, s.start, s.stop"
        ).fetchall()
    sources = {Path(job.source).stem: job.source for job in progress.found.listing.jobs}
    base = progress.found.videos
    clips: list[LabelRow] = []
    counts = dict.fromkeys(("train", "val", "test"), 0)
    for path, start, stop, label, split in rows:
        name, (own, _, part) = path.rpartition("/")[2], split.rpartition("/")
        if own != division or label == _BACKGROUND or part not in counts:
            continue
        source = Path(sources[name])
        shown = source.relative_to(base) if source.is_relative_to(base) else source.resolve()
        clips.append(LabelRow(label, name, start, stop, part, str(shown)))
        counts[part] += 1
    if not counts["train"]:
        raise ValueError(f"{progress.found.labels}: no training video has a labeled segment with frames")
    write_label_csv(progress.out / "clips.csv", clips)
    shown_counts = ", ".join(f"{name} {count}" for name, count in counts.items())
    progress.choices.add(
        "features", f"of the recognition network, trained on the labeled segments ({shown_counts})",
        "no features are given", "`vidseg train detection` or `segmentation` with --features",
    )  # fmt: skip
    return counts


def _extract(progress: Progress, root: Path, encoder: Path) -> None:
    progress.command("extract-features", root, "--weights", encoder, "--stride", _STRIDE, "--overwrite")

    def work(continued: bool) -> dict[str, Any]:
        trained = load_trained(encoder, device=process_device(progress.options.device))
        assert isinstance(trained, RecognitionModel)
        report = extract_features(
            open_dataset(root), trained, root / "features", stride=_STRIDE, overwrite=not continued
        )
        return {"failed": report.failed}

    videos = [(row[0], row[2], row[3]) for row in content_of(root)[0]]
    weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(encoder.glob("*.pth"))]
    result = progress.step("features", [videos, weights], work, files=(root / "features",))
    progress.failed += [one for one in result["failed"] if one not in progress.failed]


def _train(progress: Progress, root: Path, division: str) -> tuple[Path, dict[str, float]]:
    """Train and test on the features; returns the folder of the run and its scores."""
    options, task = progress.options, progress.found.task
    run = progress.out / "run"
    epochs = options.epochs or _EPOCHS[task]
    values: dict[str, Any] = {"network": _NETWORKS[task], "epochs": epochs, "seed": options.seed, "out": str(run)}
    if options.device is not None:
        values["device"] = options.device
    if task == "detection":
        values |= {"features": (str((root / "features").resolve()),), "feature_stride": float(_STRIDE)}
        values |= {"lr": 1e-3, "select": "validation", "split": division}
    else:
        values |= {"labels_per_column": _STRIDE, "select": "validation", "length_tolerance": _STRIDE}
        values |= {"splits": (division,) if division else ()}
    given = option_values(options.times_option)
    values |= given
    progress.choices.add(
        task, f"{values['network']}, {values['epochs']} epochs on the features", "",
        "--times-option network=... epochs=...", given=bool(given),
    )  # fmt: skip
    progress.command("train", task, root, *option_words({key: value for key, value in values.items() if value != ""}))

    def work(continued: bool) -> dict[str, Any]:
        resumed = continued and any(run.rglob(RECORD))
        start: dict[str, Any] = {"resume": True} if resumed else {"overwrite": True}
        if task == "detection":
            train_detection(detection_options("detection", dataset=str(root), **values, **start))
        else:
            cross_validate(segmentation_options("segmentation", dataset=str(root), **values, **start))
        return {}

    features = [(path.name, path.stat().st_mtime_ns) for path in sorted((root / "features").glob("*.npy"))]
    progress.step("train", [values, features, content_of(root, splits=True)], work)
    tested = next(iter(sorted(run.rglob("test.json"))))
    scores = json.loads(tested.read_text(encoding="utf-8"))["scores"]
    if task == "detection":
        return run, {"mAP": float(scores.get("average", 0.0))}
    return run, {"acc": float(scores["acc"]), "edit": float(scores["edit"])}


def _next_steps(
    progress: Progress, root: Path, counts: dict[str, int], splits: dict[str, int], scores: dict[str, float], run: str
) -> list[str]:
    advice = []
    if progress.failed:
        advice.append(f"Repair or remove {counted(len(progress.failed), 'file')}; the reasons are below.")
    with read_catalog(root) as connection:
        segments = dict(
            connection.execute(
                "SELECT c.name, count(*) FROM segments s JOIN classes c ON c.id = s.class_id GROUP BY 1 ORDER BY 2"
            ).fetchall()
        )
    few = [f"{name} {count}" for name, count in segments.items() if count < _FEW and name != _BACKGROUND]
    if few:
        advice.append(
            f"Label more: {counted(len(few), 'class has', 'classes have')} fewer than {_FEW} segments, fewest "
            f"{', '.join(few[:5])}."
        )
    if progress.options.pretrained is None:
        advice.append(
            "Start from published weights: the features come from a network that learned from "
            f"{counts['train']} segments only. `vidseg models torchvision_r3d_18` shows where to fetch weights; "
            "then add --pretrained kinetics400 --network torchvision_r3d_18."
        )
    tested = next((count for name, count in splits.items() if name.rpartition("/")[2] == "test"), 0)
    if tested < _FEW:
        advice.append(
            f"The scores are of {counted(tested, 'test video')} only, and change by several points with another "
            "--seed: test on more videos before comparing networks."
        )
    features = "features of the video, see the command `extract-features` below"
    shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
    advice.append(f"Use the network ({shown}): vidseg predict FILE --weights {run}, where FILE holds {features}.")
    return advice
