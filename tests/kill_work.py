"""What kill_test.py kills: kinds of work, and what has to hold after a kill and at the end."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import write_published_database
from detection_data import detection_dataset
from segmentation_data import segmentation_dataset
from shapes import shapes_dataset
from stream_data import stream_dataset

from vidseg.cli.main import main
from vidseg.convert import convert_videos
from vidseg.convert.checking import check_databases
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.frames import FlowDatabase, FrameDatabase
from vidseg.labels import VideoRecord, open_dataset, update_catalog

Call = tuple[Callable[..., int], tuple[Any, ...]]

VIDEOS, ROWS = 8, 400
RUN = "--epochs 2 --checkpoint-every 1 --resume --pictures False".split()
RECOGNITION = "--network srtg_r3d_18 --network-option width=0.125 --frames 4 --size 32 --batch-size 2 --ema 0.9".split()
SEGMENTATION = "--network mstcn --network-option layers=3 maps=16 stages=2 --validation-share 0.4".split()
STREAMING = (
    "--network etesvs --network-option width=0.1 --size 32 --stride 8 --frames 4 --interval 2 --threads 1 "
    "--validation-share 0.4"
).split()
DETECTION = "--network actionformer --network-option maps=16 heads=2 --batch-size 2 --validation-share 0.5".split()
CPU = ["--device", "cpu"]


class Inputs:
    """Data sets and trained networks that several kinds of work start from, each made when it is first needed.

    Args:
        folder: for them.
        make_video: writes a video file, see conftest.
        run: runs `vidseg` with these words to its end.
    """

    def __init__(self, folder: Path, make_video: Callable[..., Path], run: Callable[[list[str]], None]) -> None:
        self.folder, self.make_video, self.run = folder, make_video, run

    @cached_property
    def videos(self) -> Path:
        """Folder of video files in two classes."""
        for index in range(VIDEOS):
            self.make_video(self.folder / f"videos/c{index % 2}/{index}.mp4", frames=80, size=(96, 128))
        return self.folder / "videos"

    @cached_property
    def converted(self) -> Path:
        """The data set of `videos`."""
        assert convert_videos(self.videos, self.folder / "converted", workers=2).ok
        return self.folder / "converted"

    @cached_property
    def shapes(self) -> Path:
        """A data set for recognition."""
        return shapes_dataset(self.folder / "shapes", videos=16, frames=8)

    @cached_property
    def features(self) -> Path:
        """A data set of features with frame labels."""
        return segmentation_dataset(self.folder / "features", people=2, videos=3)

    @cached_property
    def streams(self) -> Path:
        """A data set of frames with frame labels."""
        return stream_dataset(self.folder / "streams", videos=4, train=3) / "data"

    def trained(self, name: str, words: list[str]) -> Path:
        """The run of a network."""
        out = self.folder / name
        if not out.is_dir():
            self.run([*words, "--out", str(out)])
        return out

    @cached_property
    def recognition(self) -> list[str]:
        """Words that train for recognition."""
        return ["train", str(self.shapes), *RECOGNITION, *RUN, *CPU]

    @cached_property
    def segmentation(self) -> list[str]:
        """Words that train for segmentation, split by split."""
        return ["train", "segmentation", str(self.features), *SEGMENTATION, *RUN, *CPU]

    @cached_property
    def detection(self) -> list[str]:
        """Words that train for detection."""
        data = detection_dataset(self.folder / "segments", train=4, test=2)
        return ["train", "detection", str(data), *DETECTION, *RUN, *CPU]

    @cached_property
    def streaming(self) -> list[str]:
        """Words that train for streaming."""
        return ["train", "stream", str(self.streams), *STREAMING, *RUN, *CPU]


class Work:
    """One kind of work.

    Args:
        inputs: what it may start from.
        expected: its result when it was not disturbed; `out` of the first call of `prepare`.
    """

    name = ""
    checked = "same files as an undisturbed run"
    ranks = 1
    """Processes of the work, where the work does not start them."""
    timed = 0.5
    """Share of the kills at a random time, not at a change of a file by the first process."""
    repeated = True
    """Whether the work comes to an end when it is done again."""

    def __init__(self, inputs: Inputs, expected: Path) -> None:
        self.inputs, self.expected = inputs, expected

    def prepare(self, out: Path) -> None:
        """Make what the work starts from."""

    def words(self, out: Path) -> list[str]:
        """Return the words of the command line of `vidseg`."""
        raise NotImplementedError

    def call(self, out: Path) -> Call:
        """Return the function that does the work and returns the exit status, and its arguments."""
        return main, (self.words(out),)

    def started(self, out: Path) -> bool:
        """Return whether the work has begun, so that a kill does not hit the time before."""
        return True

    def check_left(self, out: Path) -> None:
        """Check what a killed process has left."""

    def check_end(self, out: Path) -> None:
        """Check the result of the repeated work."""
        assert_same(out, self.expected)


class Conversion(Work):
    name, timed = "convert", 0.8
    checked = "each database whole; same bytes as an undisturbed conversion; catalog complete"

    def words(self, out: Path) -> list[str]:
        return ["convert", str(self.inputs.videos), str(out), "--workers", "2"]

    def started(self, out: Path) -> bool:
        return (out / "jpg").is_dir()

    def check_left(self, out: Path) -> None:
        for path in out.rglob("frames.db"):
            assert FrameDatabase(path).verify() == [], path

    def check_end(self, out: Path) -> None:
        assert_same(out / "jpg", self.expected / "jpg")
        assert [video.frames for video in open_dataset(out)] == [80] * VIDEOS
        assert check_databases(out).ok


class StreamConversion(Conversion):
    name = "convert --store video"

    def words(self, out: Path) -> list[str]:
        return [*super().words(out), "--store", "video"]


class Repair(Work):
    name = "check --repair"
    checked = "intact frames kept at each moment; same bytes as an undisturbed repair"

    def __init__(self, inputs: Inputs, expected: Path) -> None:
        super().__init__(inputs, expected)
        self.damaged, self.frames = inputs.folder / "damaged", {}
        shutil.copytree(inputs.converted, self.damaged)
        for path in self.damaged.rglob("frames.db"):
            self.frames[path.parent.name] = FrameDatabase(path).read(range(80))
            with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE Levels SET jpeg = substr(jpeg, 1, 50) WHERE frame % 9 = 1")
                connection.execute("UPDATE Images SET frames = substr(frames, 1, 50) WHERE rowid = 20")

    def prepare(self, out: Path) -> None:
        shutil.copytree(self.damaged, out)

    def words(self, out: Path) -> list[str]:
        return ["check", str(out), "--repair"]

    def started(self, out: Path) -> bool:
        return (out / ".conversion.lock").exists()

    def check_left(self, out: Path) -> None:
        for path in out.rglob("frames.db"):
            database, frames = FrameDatabase(path), self.frames[path.parent.name]
            kept = [jpeg for number, jpeg in enumerate(frames) if number != 19]
            if len(database) == 80:  # not reached yet
                assert [jpeg for number, jpeg in enumerate(database.read(range(80))) if number != 19] == kept
            else:
                assert database.read(range(79)) == kept
                assert [fault for fault in database.verify() if not fault.startswith("n_frames")] == []

    def check_end(self, out: Path) -> None:
        assert_same(out / "jpg", self.expected / "jpg")
        assert check_databases(out).ok


class Upgrade(Work):
    name = "check --index"
    checked = "all frames in order at each moment; same bytes as an undisturbed upgrade"

    def __init__(self, inputs: Inputs, expected: Path) -> None:
        super().__init__(inputs, expected)
        self.frames = FrameDatabase(inputs.converted / "jpg/c0/0").read(range(80))

    def prepare(self, out: Path) -> None:
        for index in range(VIDEOS):
            order = list(reversed(range(80)))
            write_published_database(out / f"jpg/c/{index}", self.frames, width=128, order=order)

    def words(self, out: Path) -> list[str]:
        return ["check", str(out), "--index"]

    def check_left(self, out: Path) -> None:
        for path in out.rglob("frames.db"):
            assert FrameDatabase(path).read(range(80)) == self.frames

    def check_end(self, out: Path) -> None:
        self.check_left(out)
        assert_same(out / "jpg", self.expected / "jpg")


class Export(Work):
    """Export of frames as JPEG files or as videos."""

    form = ""

    def words(self, out: Path) -> list[str]:
        return ["convert", str(self.inputs.converted), str(out), "--to", self.form]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


class JpegExport(Export):
    name, form = "convert --to jpeg", "jpeg"
    checked = "each file whole; same files as an undisturbed export"


class VideoExport(Export):
    name, form = "convert --to video", "video"
    checked = JpegExport.checked


class Synthesis(Work):
    name = "synth"
    checked = "each file whole; same videos and tables as an undisturbed command"

    def words(self, out: Path) -> list[str]:
        return [
            "synth",
            str(out),
            "--videos",
            "8",
            "--frames",
            "10",
            "--width",
            "64",
            "--height",
            "64",
            "--workers",
            "1",
        ]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


class Catalog(Work):
    """Transactions on a catalog, one after the other, until they are killed."""

    name = "catalog writes"
    checked = "all rows of one transaction; integrity; foreign keys"
    repeated = False

    def prepare(self, out: Path) -> None:
        out.mkdir()
        write_catalog_rows(out, 1)

    def call(self, out: Path) -> Call:
        return write_transactions, (out, 20 if out == self.expected else 10**6)

    def check_left(self, out: Path) -> None:
        data = open_dataset(out)
        assert len(data) == ROWS
        (number,) = set(data.frames.tolist())
        assert {data.classes[label] for label in data.labels.tolist()} == {f"class {number % 7}"}
        assert len(open_dataset(out, split=("train", "val")[number % 2])) == ROWS
        with contextlib.closing(sqlite3.connect(out / "catalog.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []

    check_end = check_left


class Labels(Work):
    name = "labels split"
    checked = "the splits before or after; same catalog as an undisturbed command"

    def prepare(self, out: Path) -> None:
        out.mkdir()
        shutil.copy(self.inputs.shapes / "catalog.db", out)

    def words(self, out: Path) -> list[str]:
        return ["labels", "split", str(out), "0.6", "0.2", "0.2", "--replace"]

    def check_left(self, out: Path) -> None:
        assert catalog_text(out) in (catalog_text(self.inputs.shapes), catalog_text(self.expected))

    def check_end(self, out: Path) -> None:
        assert catalog_text(out) == catalog_text(self.expected)


class Training(Work):
    """Training of one task."""

    checked = "each checkpoint loads; same weights, optimizer, scores, predictions as an undisturbed run"
    task = ""

    def words(self, out: Path) -> list[str]:
        return [*getattr(self.inputs, self.task), "--out", str(out)]

    def started(self, out: Path) -> bool:
        return out.is_dir()

    def check_left(self, out: Path) -> None:
        for path in out.rglob("*.pth"):
            assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())


class RecognitionTraining(Training):
    name, task = "train (recognition)", "recognition"


class SegmentationTraining(Training):
    """Longer training of splits that have been trained and tested."""

    name, task = "train (segmentation)", "segmentation"

    def prepare(self, out: Path) -> None:
        shutil.copytree(self.inputs.trained("short", [*self.inputs.segmentation, "--epochs", "1"]), out)


class StreamingTraining(Training):
    name, task = "train (streaming)", "streaming"


class DetectionTraining(Training):
    name, task = "train (detection)", "detection"


class DistributedTraining(Training):
    name, task, ranks = "train (recognition, 2 processes)", "recognition", 2

    def words(self, out: Path) -> list[str]:
        return [*super().words(out), "--batch-size", "4"]


class DistributedStreaming(DistributedTraining):
    name, task = "train (streaming, 2 processes)", "streaming"

    def words(self, out: Path) -> list[str]:
        return [*Training.words(self, out), "--batch-size", "2"]


class Test(Work):
    """Test of a run, which has been tested before."""

    name = "test"
    checked = "each report loads; same reports as an undisturbed test"

    def prepare(self, out: Path) -> None:
        shutil.copytree(self.inputs.trained("recognition", self.inputs.recognition), out)

    def words(self, out: Path) -> list[str]:
        return ["test", str(out), "--dump", str(out / "scores.npz"), "--worst", "0"]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


class Extraction(Work):
    name = "extract-features"
    checked = "each file whole; same files as an undisturbed extraction"

    def words(self, out: Path) -> list[str]:
        run = self.inputs.trained("recognition", self.inputs.recognition)
        return ["extract-features", str(self.inputs.streams), "--weights", str(run), "--out", str(out)]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


class FlowExtraction(Work):
    """Motion vectors, in databases beside those of the frames."""

    name, timed = "extract-flow", 0.8
    checked = "each database whole; same bytes as an undisturbed extraction"

    def prepare(self, out: Path) -> None:
        shutil.copytree(self.inputs.converted, out)

    def words(self, out: Path) -> list[str]:
        return ["extract-flow", str(out), "--method", "motion-vectors", "--workers", "2"]

    def started(self, out: Path) -> bool:
        return (out / ".conversion.lock").exists()

    def check_left(self, out: Path) -> None:
        for path in out.rglob("motion.db"):
            assert FlowDatabase(path).verify() == [], path

    def check_end(self, out: Path) -> None:
        assert_same(out / "jpg", self.expected / "jpg")
        assert len(list(out.rglob("motion.db"))) == VIDEOS
        assert check_databases(out).ok


class Prediction(Work):
    """Classes of videos, their scores in a file, and the videos with their classes drawn in."""

    name = "predict (recognition)"
    checked = "each file whole; same files as an undisturbed prediction"

    def words(self, out: Path) -> list[str]:
        run = self.inputs.trained("recognition", self.inputs.recognition)
        source = self.inputs.streams.parent / "videos"
        return ["predict", str(source), "--weights", str(run), "--dump", str(out / "scores.csv"), "--draw", str(out)]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


class Labeling(Work):
    """Frame labels of features."""

    name = "predict (segmentation)"
    checked = Prediction.checked

    def words(self, out: Path) -> list[str]:
        run = self.inputs.trained("segmentation", self.inputs.segmentation) / "split1"
        return ["predict", str(self.inputs.features / "features"), "--weights", str(run), "--out", str(out)]

    def check_left(self, out: Path) -> None:
        assert_part(out, self.expected)


KINDS: tuple[type[Work], ...] = (
    Conversion,
    RecognitionTraining,
    Repair,
    SegmentationTraining,
    Catalog,
    StreamingTraining,
    DetectionTraining,
    Extraction,
    FlowExtraction,
    DistributedTraining,
    Prediction,
    DistributedStreaming,
    Upgrade,
    Labeling,
    JpegExport,
    Synthesis,
    Test,
    VideoExport,
    Labels,
    StreamConversion,
)


def write_catalog_rows(root: str | Path, number: int) -> None:
    """Write all rows with the same frame count, number of classes and split, in one transaction."""
    update_catalog(
        root,
        (
            VideoRecord(
                f"jpg/c/{row}", f"class {number % 7}", number, 48, 64, 25.0, 1.0, 9, ("train", "val")[number % 2]
            )
            for row in range(ROWS)
        ),
    )


def write_transactions(root: Path, count: int) -> int:
    """Write the rows again and again."""
    for number in range(2, 2 + count):
        write_catalog_rows(root, number)
    return 0


def catalog_text(root: Path) -> list[str]:
    """Return the content of a catalog as SQL."""
    with contextlib.closing(sqlite3.connect(root / "catalog.db")) as connection:
        return list(connection.iterdump())


def contents(root: Path) -> dict[str, Any]:
    """Return what every file below a folder holds, in a form that two folders can be compared by.

    The log, and what depends on the number of starts, are left out; rows of score tables are joined by epoch.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix not in {".log", ".jsonl"}):
        name = path.relative_to(root).as_posix()
        folder, table, _ = name.partition("_results_s")
        if table:
            rows = list(csv.reader(path.read_text().splitlines()))
            found.setdefault(folder, {}).update({row[0]: row for row in rows})
        elif path.suffix == ".pth":
            content = read_checkpoint(path)
            record = {key: value for key, value in content["record"].items() if key != "changes"}
            found[name] = plain({**content, "record": record}, str(root))
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text().replace(str(root), "ROOT"))
            if "changes" in found[name]:
                del found[name]["changes"]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def plain(value: Any, root: str) -> Any:
    """Return nested content with the bytes of its tensors, and without the name of the folder."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(each, root) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, root) for each in value]
    if isinstance(value, str):
        return value.replace(root, "ROOT")
    return value.tobytes() if isinstance(value, np.ndarray) else value


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Return where nested contents differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            text
            for key in sorted(found.keys() | expected.keys(), key=str)
            for text in differences(found.get(key), expected.get(key), f"{place}/{key}")
        ]
    return [] if found == expected else [f"{place}: {str(found)[:80]} instead of {str(expected)[:80]}"]


def assert_same(out: Path, expected: Path) -> None:
    """Check that two folders hold the same."""
    found = differences(contents(out), contents(expected))
    assert not found, "; ".join(found[:8])


def assert_part(out: Path, expected: Path) -> None:
    """Check that every file that has its final name is that of an undisturbed run."""
    known = contents(expected)
    for name, content in contents(out).items() if out.is_dir() else ():
        if name in known:
            assert content == known[name], name
        else:
            assert Path(name).name.startswith(".") or name.endswith((".tmp", ".part")), f"{name}: no file of the work"


def rank_environment(ranks: int) -> list[dict[str, str]]:
    """Return the environment of each process of a group, as torchrun would set it."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{} if ranks == 1 else {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def perform(call: Call, out: Path, log: Path, environment: dict[str, str], event: int, delay: float, pipe: Any) -> None:
    """Do a work in this process, and end it without any cleanup `delay` seconds after its `event`-th change of a file.

    Args:
        call: what to do.
        out: folder whose changes count.
        log: file for what it prints.
        environment: variables to set.
        event: number of the change, from 1; 0: the process is not ended here.
        delay: in seconds.
        pipe: takes the number of changes, if the work comes to its end.
    """
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    root, changes = str(out), 0

    def count(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = name in ("os.rename", "os.remove", "os.link", "os.mkdir", "sqlite3.connect")
        if not writes and not (name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if os.fsdecode(arguments[0] if not isinstance(arguments[0], int) else "").startswith(root):
            changes += 1
            if changes == event:  # the alarm's default action ends the process at once, whatever it does
                signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))

    sys.addaudithook(count)
    function, arguments = call
    status = function(*arguments)
    pipe.send(changes)
    sys.stdout.flush()
    sys.exit(status)
