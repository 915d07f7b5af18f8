"""Fuzzes what the library reads and is given in Python: catalogs, label files, checkpoints, databases, plans.

    python tests/fuzz/inputs.py TARGET [--seconds N | --count N] [--seed S] [--corpus FOLDER]
    python tests/fuzz/inputs.py TARGET --replay FILE.zip ... [--seconds N | --count N]

TARGET is catalog, labels, checkpoints, database, planner, or `all`. Each input is one file, made from a valid one by
structural and bytewise changes that depend on the seed and the number of the input only. Reading it must succeed, or
raise an error that the target allows, from a `raise` statement of the library, with a message that names the file, in
limited time and memory. Anything else is a finding: the input is kept in FOLDER/TARGET/findings, and the exit status is
1. FOLDER/TARGET/corpus.zip has the inputs whose outcome differs from those of all inputs before them.
"""

from __future__ import annotations

import argparse
import json
import linecache
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import vidseg

PACKAGE = Path(vidseg.__file__).parent
LIMIT_SECONDS = 10  # of processor time, for one use of an input
LIMIT_BYTES = 3 << 29  # of address space, beyond that of the start
_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|/\S+|[-+.0-9a-f]{2,}")  # what differs between messages of one kind
_LONGEST_MESSAGE = 10_000
_STALLED = 12  # the process is ended if an input takes this multiple of the limit, by the clock


@dataclass(frozen=True)
class Call:
    """One use of an input.

    Attributes:
        name: for reports.
        run: reads the input.
        allowed: errors that it may raise.
        named: text that every message contains, such as the name of the file; "" for any message.
    """

    name: str
    run: Callable[[], object]
    allowed: tuple[type[BaseException], ...]
    named: str = ""


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        make: the file name and the bytes of an input; gets a folder for its work.
        calls: uses of an input, which lies at the given path in a folder of its own.
    """

    make: Callable[[random.Random, Path], tuple[str, bytes]]
    calls: Callable[[Path], Iterable[Call]]


class TooSlow(BaseException):
    """The time of an input has passed."""


def targets() -> dict[str, Target]:
    """Return all targets by name."""
    import catalog_target
    import checkpoint_target
    import database_target
    import label_target
    import planner_target

    return {
        "catalog": catalog_target.TARGET,
        "labels": label_target.TARGET,
        "checkpoints": checkpoint_target.TARGET,
        "database": database_target.TARGET,
        "planner": planner_target.TARGET,
    }


def judge(call: Call, error: BaseException) -> str | None:
    """Return what is wrong with an error of a call, or None if it is one that the library means to raise."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    what = f"{call.name}: {type(error).__name__} at {where}: {str(error)[:300]!r}"
    if not isinstance(error, call.allowed) or isinstance(error, UnicodeError | json.JSONDecodeError):
        return what
    if place.filename == torch._ops.__file__:  # raised by a compiled operator
        return None
    if not Path(place.filename).is_relative_to(PACKAGE):
        return f"{what}: not raised by the library"
    if not linecache.getline(place.filename, place.lineno or 0).strip().startswith("raise"):
        return f"{what}: not a `raise` statement"
    if call.named not in str(error):
        return f"{what}: the message does not name {call.named!r}"
    if len(str(error)) > _LONGEST_MESSAGE:
        return f"{what}: a message of {len(str(error))} characters"
    return None


def try_input(target: Target, path: Path) -> tuple[list[str], set[str]]:
    """Use one input; return its findings, and the outcomes of its calls without numbers and names."""
    findings, outcomes = [], set()
    for call in target.calls(path):
        signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)  # of the processor: other processes do not count
        try:
            call.run()
            outcomes.add(call.name)
        except TooSlow:
            findings.append(f"{call.name}: more than {LIMIT_SECONDS} seconds")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            outcomes.add(f"{call.name} {Path(place.filename).name}:{place.lineno} {_NAMES.sub('', str(error))[:60]}")
            found = judge(call, error)
            if found is not None:
                findings.append(found)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return findings, outcomes


def make_input(name: str, target: Target, seed: int, number: int, folder: Path) -> Path:
    """Write input `number` of a seed into an empty folder and return its path."""
    work = folder / "work"
    shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    file, data = target.make(random.Random(f"{name} {seed} {number}"), work)
    shutil.rmtree(work)
    (folder / file).write_bytes(data)
    return folder / file


def _run_inputs(name: str, target: Target, numbers: Iterator[int], seed: int, folder: Path, progress: Path) -> None:
    """Make and use inputs in this process; `progress` has the last number, and how many inputs had findings."""

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    bad, known = 0, set()
    for number in numbers:
        path = make_input(name, target, seed, number, folder / "input")
        progress.write_text(f"{number} {bad}")
        data = path.read_bytes()
        findings, outcomes = try_input(target, path)
        if findings:
            bad += 1
            _keep(folder, name, seed, number, path.name, data, findings)
            progress.write_text(f"{number} {bad}")
        if not outcomes <= known:
            known |= outcomes
            with zipfile.ZipFile(folder / "corpus.zip", "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{seed}-{number}/{path.name}", data)


def _keep(folder: Path, name: str, seed: int, number: int, file: str, data: bytes, findings: list[str]) -> None:
    place = folder / "findings" / f"{name}-{seed}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    (place / file).write_bytes(data)
    (place / "findings.txt").write_text("\n".join(findings) + "\n")
    print(f"{name} {seed}-{number}: " + "\n    ".join(findings), flush=True)


def fuzz(name: str, target: Target, *, seconds: float, count: int, seed: int, folder: Path) -> tuple[int, int]:
    """Use inputs until the time or the count is reached; returns the numbers of inputs and of those with findings.

    The inputs run in a child process. If it crashes or hangs, its input is a finding, and another process goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    progress, end, first, bad = folder / "progress", time.monotonic() + seconds, 0, 0

    def numbers(begin: int) -> Iterator[int]:
        for number in range(begin, count):
            if time.monotonic() >= end:
                return
            yield number

    while first < count and time.monotonic() < end:
        progress.write_text(f"{first - 1} 0")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _run_inputs(name, target, numbers(first), seed, folder, progress)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        status = _wait(child, progress)
        number, found = map(int, progress.read_text().split())
        done = number + 1
        if status == 0:
            return done, bad + found
        bad += found + 1
        cause = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an error outside the calls"
        for path in sorted((folder / "input").glob("*")):
            if path.is_file():
                _keep(folder, name, seed, done - 1, path.name, path.read_bytes(), [f"the process ended with {cause}"])
        first = done
    return first, bad


def _wait(child: int, progress: Path) -> int:
    """Wait for a child, and end it if it does not go on; returns its status."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.time() - progress.stat().st_mtime > _STALLED * LIMIT_SECONDS:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.02)


def replay(name: str, target: Target, archives: Iterable[Path]) -> int:
    """Use the inputs of archives again; returns the number of inputs with findings."""

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        for archive in archives:
            with zipfile.ZipFile(archive) as members:
                for member in members.namelist():
                    path = Path(scratch) / str(bad) / member
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(members.read(member))
                    findings, _ = try_input(target, path)
                    if findings:
                        bad += 1
                        print(f"{archive}: {member}: " + "\n    ".join(findings))
                    shutil.rmtree(path.parent)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=None, help="time of each target; default: 60 without --count")
    parser.add_argument("--count", type=int, default=None, help="number of inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, default=None, help="folder of what is kept; default: a temporary one")
    parser.add_argument("--replay", type=Path, nargs="+", default=None, help="archives of inputs to use first")
    options = parser.parse_args()
    known = targets()
    if options.target not in (*known, "all"):
        parser.error(f"no target {options.target!r}; expected {', '.join(known)} or all")
    torch.set_num_threads(1)
    logging.disable()
    seconds = options.seconds if options.seconds is not None else 60.0 if options.count is None else 1e9
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in known if options.target == "all" else (options.target,):
            if options.replay is not None:
                failed += replay(name, known[name], options.replay)
                if options.seconds is None and options.count is None:
                    continue
            folder = (options.corpus or Path(scratch)) / name
            began = time.monotonic()
            done, bad = fuzz(
                name, known[name], seconds=seconds, count=options.count or sys.maxsize, seed=options.seed, folder=folder
            )
            print(f"{name}: {done} inputs in {time.monotonic() - began:.0f} s, {bad} with findings")
            failed += bad
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
