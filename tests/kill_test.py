"""SIGKILL at random moments of conversion, repair, catalog writes and training: nothing is lost, nothing is damaged.

    python tests/kill_test.py --moments 200 [--seed N] [--json]

Each moment starts one piece of work, kills it, checks what it has left, repeats the work, and compares the end with
that of work that was not disturbed. Not part of the normal tests; test_kill.py runs a few moments.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from vidseg.convert import convert_videos
from vidseg.convert.checking import check_databases
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.frames import FrameDatabase
from vidseg.labels import VideoRecord, open_dataset, update_catalog

VIDEOS, ROWS = 8, 400
VIDSEG = [sys.executable, "-m", "vidseg.cli.main"]
TRAIN = "import sys; from pathlib import Path; from trained import train; train(Path(sys.argv[1]))"
WRITE = """
import sys
from kill_test import write_catalog_rows
for number in range(2, 10**6):
    write_catalog_rows(sys.argv[1], number)
"""


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


class Work:
    """One kind of work: its command, and what has to hold after a kill and at the end.

    Args:
        folder: for the inputs, and for the result of work that was not disturbed.
        make_video: writes a video file, see conftest.
    """

    name = ""

    def __init__(self, folder: Path, make_video: Callable[..., Path]) -> None:
        self.folder = folder

    def prepare(self, out: Path) -> None:
        """Make what the command starts from."""

    def command(self, out: Path) -> list[str]:
        """Return the command."""
        raise NotImplementedError

    def started(self, out: Path) -> bool:
        """Return whether the work has begun, so that a kill hits it and not the imports."""
        raise NotImplementedError

    def victims(self, pid: int) -> list[int]:
        """Return the processes of which one is killed."""
        return [pid]

    def check_left(self, out: Path) -> None:
        """Check what a killed process has left."""

    def check_end(self, out: Path) -> None:
        """Check the result of the repeated work."""


class Conversion(Work):
    name = "conversion"

    def __init__(self, folder: Path, make_video: Callable[..., Path]) -> None:
        super().__init__(folder, make_video)
        for index in range(VIDEOS):
            make_video(folder / f"v/c{index % 2}/{index}.mp4", frames=80, size=(96, 128))
        assert convert_videos(folder / "v", folder / "data", workers=2).ok

    def command(self, out: Path) -> list[str]:
        return [*VIDSEG, "convert", str(self.folder / "v"), str(out), "--workers", "2"]

    def started(self, out: Path) -> bool:
        return (out / "jpg").is_dir()

    def victims(self, pid: int) -> list[int]:
        with contextlib.suppress(OSError):
            return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return [pid]

    def check_left(self, out: Path) -> None:
        for path in out.rglob("frames.db"):
            assert FrameDatabase(path).verify() == [], path

    def check_end(self, out: Path) -> None:
        assert digests(out) == digests(self.folder / "data")
        assert [video.frames for video in open_dataset(out)] == [80] * VIDEOS
        assert check_databases(out).ok


class Repair(Work):
    name = "check --repair"

    def __init__(self, folder: Path, make_video: Callable[..., Path]) -> None:
        super().__init__(folder, make_video)
        for index in range(VIDEOS):
            make_video(folder / f"r/c/{index}.mp4", frames=80, size=(96, 128))
        assert convert_videos(folder / "r", folder / "damaged", workers=2).ok
        self.frames = {}
        for path in (folder / "damaged").rglob("frames.db"):
            self.frames[path.parent.name] = FrameDatabase(path).read(range(80))
            with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE Levels SET jpeg = substr(jpeg, 1, 50) WHERE frame % 9 = 1")
                connection.execute("UPDATE Images SET frames = substr(frames, 1, 50) WHERE rowid = 20")
        shutil.copytree(folder / "damaged", folder / "repaired")
        assert check_databases(folder / "repaired", repair=True).ok

    def prepare(self, out: Path) -> None:
        shutil.copytree(self.folder / "damaged", out)

    def command(self, out: Path) -> list[str]:
        return [*VIDSEG, "check", str(out), "--repair"]

    def started(self, out: Path) -> bool:
        return (out / ".conversion.lock").exists()

    def check_left(self, out: Path) -> None:
        for name, frames in self.frames.items():
            database = FrameDatabase(out / "jpg/c" / name)
            kept = [jpeg for number, jpeg in enumerate(frames) if number != 19]
            if len(database) == 80:  # not reached yet
                assert [jpeg for number, jpeg in enumerate(database.read(range(80))) if number != 19] == kept
            else:
                assert database.read(range(79)) == kept
                assert [fault for fault in database.verify() if not fault.startswith("n_frames")] == []

    def check_end(self, out: Path) -> None:
        assert digests(out) == digests(self.folder / "repaired")
        assert check_databases(out).ok


class Catalog(Work):
    name = "catalog"

    def prepare(self, out: Path) -> None:
        out.mkdir()
        write_catalog_rows(out, 1)

    def command(self, out: Path) -> list[str]:
        return [sys.executable, "-c", WRITE, str(out)]

    def started(self, out: Path) -> bool:
        with contextlib.closing(sqlite3.connect(out / "catalog.db", timeout=60)) as connection:
            return bool(connection.execute("SELECT max(frames) > 1 FROM videos").fetchone()[0])

    def check_left(self, out: Path) -> None:
        data = open_dataset(out)
        assert len(data) == ROWS
        (number,) = set(data.frames.tolist())
        assert {data.classes[label] for label in data.labels.tolist()} == {f"class {number % 7}"}
        assert len(open_dataset(out, split=("train", "val")[number % 2])) == ROWS
        with contextlib.closing(sqlite3.connect(out / "catalog.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []

    def check_end(self, out: Path) -> None:
        self.check_left(out)


class Training(Work):
    name = "training"

    def __init__(self, folder: Path, make_video: Callable[..., Path]) -> None:
        super().__init__(folder, make_video)
        subprocess.run([sys.executable, "-c", TRAIN, str(folder / "run")], check=True, capture_output=True)
        self.expected = read_checkpoint(folder / "run/net_ep-0002.pth")

    def command(self, out: Path) -> list[str]:
        return [sys.executable, "-c", TRAIN, str(out)]

    def started(self, out: Path) -> bool:
        return out.is_dir()

    def check_left(self, out: Path) -> None:
        for path in out.glob("net_*.pth"):
            assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())

    def check_end(self, out: Path) -> None:
        found = read_checkpoint(out / "net_ep-0002.pth")
        assert (found["epoch"], found["best"]) == (self.expected["epoch"], self.expected["best"])
        for key, value in self.expected["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value), key
        assert not [path for path in out.iterdir() if path.name.startswith(".net")]


KINDS: tuple[type[Work], ...] = (Conversion, Repair, Catalog, Training)


def digests(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below jpg/."""
    files = sorted(path for path in (root / "jpg").rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def environment() -> dict[str, str]:
    """Return an environment in which the modules of tests/ can be imported."""
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": f"{here}:{here.parent}:{os.environ.get('PYTHONPATH', '')}"}


def kill_once(work: Work, out: Path, wait: float, choice: random.Random) -> str:
    """Start the work, kill one of its processes `wait` seconds after it has begun, check, repeat, compare.

    Returns:
        "parent", "worker", or "finished" if the work ended before the kill.
    """
    work.prepare(out)
    with subprocess.Popen(
        work.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        while not work.started(out) and process.poll() is None:
            time.sleep(0.005)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        victims = work.victims(process.pid) if process.poll() is None else []
        victim = choice.choice(victims[1:] if len(victims) > 1 and choice.random() < 0.5 else victims[:1] or [0])
        if victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate()
    if process.returncode not in (0, 1, -signal.SIGKILL):
        raise AssertionError(f"{work.name}: exit status {process.returncode}: {errors}")
    for child in victims[1:]:  # workers end with their parent
        end = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and time.monotonic() < end:
            time.sleep(0.01)
    work.check_left(out)
    if not isinstance(work, Catalog):
        subprocess.run(work.command(out), check=True, capture_output=True, env=environment())
    work.check_end(out)
    return "finished" if not victim else "parent" if victim == process.pid else "worker"


def run(moments: int, *, seed: int, make_video: Callable[..., Path], folder: Path) -> dict[str, Counter[str]]:
    """Kill at random moments, the kinds of work in turn; returns for each kind how many processes of which role.

    Raises:
        AssertionError: something was lost or damaged.
    """
    choice = random.Random(seed)
    kinds: list[Work] = []
    seconds: dict[str, float] = {}
    for kind in KINDS:
        (folder / kind.__name__).mkdir()
        os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
        work = kind(folder / kind.__name__, make_video)
        kinds.append(work)
        seconds[work.name] = 1.0 if isinstance(work, Catalog) else duration(work, folder / "timed")
    results: dict[str, Counter[str]] = {work.name: Counter() for work in kinds}
    for moment in range(moments):
        work = kinds[moment % len(kinds)]
        out = folder / f"moment{moment}"
        wait = choice.uniform(0, seconds[work.name])
        role = kill_once(work, out, wait, choice)
        results[work.name][role] += 1
        print(f"{moment + 1} of {moments}: {work.name}: {role}, after {wait:.2f} s", file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return results


def duration(work: Work, out: Path) -> float:
    """Return the seconds from the begin of the work to its end."""
    work.prepare(out)
    with subprocess.Popen(
        work.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        while not work.started(out) and process.poll() is None:
            time.sleep(0.005)
        began = time.monotonic()
    shutil.rmtree(out)
    return time.monotonic() - began


def main() -> None:
    """Run the program."""
    from conftest import make_video

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make = make_video.__wrapped__() if hasattr(make_video, "__wrapped__") else make_video
        results = run(options.moments, seed=options.seed, make_video=make, folder=Path(folder))
    if options.json:
        print(json.dumps(results))
    else:
        for name, counts in results.items():
            print(f"{name:16}", ", ".join(f"{role} {count}" for role, count in sorted(counts.items())))
        print("nothing was lost or damaged")


if __name__ == "__main__":
    main()
