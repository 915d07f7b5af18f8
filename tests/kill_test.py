"""Kill processes at random moments of every command that writes: nothing is lost, nothing is damaged.

    python tests/kill_test.py --moments 200 [--seed N] [--json]

Each moment starts one piece of work (kill_work.py), kills it, checks what it has left, repeats the work, and compares
the end with that of work that was not disturbed. Half of the kills hit at a random time, one of the processes of the
work, the others soon after a random change of a file. Some repeated works are killed again. Not part of the normal
tests; test_kill.py runs a few moments.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kill_work import KINDS, Call, Inputs, Work, perform, rank_environment

from vidseg.cli.main import main as vidseg

CONTEXT = multiprocessing.get_context("forkserver")  # its processes have imported torch: they start at once
PRELOADED = [
    "kill_work",
    "vidseg.cli.train",
    "vidseg.tasks.recognition.runs",
    "vidseg.tasks.recognition.feature_extraction",
    "vidseg.tasks.segmentation.cross_validation",
    "vidseg.tasks.streaming.runs",
    "torch._dynamo",
]
LONGEST = 600  # seconds after which a process hangs
PATIENCE = 10  # seconds that a group of processes has to end by itself, and after a signal
AGAIN = 0.3  # share of the kills whose repeated work is killed, too


@dataclass
class Result:
    """What the kills of one kind of work found."""

    checked: str
    victims: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


class Started:
    """The processes of a piece of work, started.

    Args:
        call: what to do.
        out: its folder.
        log: file for what it prints.
        ranks: processes that do the work together.
        event: see `perform`; of the first process, which writes the files.
        delay: see `perform`.
    """

    def __init__(self, call: Call, out: Path, log: Path, *, ranks: int = 1, event: int = 0, delay: float = 0.0) -> None:
        self.log = log
        self.pipes = [CONTEXT.Pipe(duplex=False) for _ in range(ranks)]
        self.processes: list[BaseProcess] = []
        for number, environment in enumerate(rank_environment(ranks)):
            arguments = (call, out, log, environment, 0 if number else event, delay, self.pipes[number][1])
            self.processes.append(CONTEXT.Process(target=perform, args=arguments))
            self.processes[-1].start()

    def running(self) -> bool:
        """Return whether all processes run."""
        return all(process.is_alive() for process in self.processes)

    def pids(self) -> list[int]:
        """Return the process numbers: those of the work, then those of its workers."""
        own = [process.pid for process in self.processes if process.pid is not None]
        workers: list[int] = []
        for pid in own:
            with contextlib.suppress(OSError):
                workers += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return own + workers

    def wait(self) -> list[int | None]:
        """Wait for the end; returns the exit status of each process.

        Raises:
            AssertionError: a process hangs.
        """
        end = time.monotonic() + LONGEST
        connection.wait([process.sentinel for process in self.processes], LONGEST)
        if any(process.exitcode not in (None, 0) for process in self.processes):
            self._end_others()
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
            process.join()
        assert not hanging, f"{len(hanging)} processes did not end within {LONGEST} s: {self.printed()}"
        return [process.exitcode for process in self.processes]

    def _end_others(self) -> None:
        """End the processes of a group of which one has failed, as torchrun does."""
        for end in (lambda process: None, BaseProcess.terminate, BaseProcess.kill):
            for process in self.processes:
                if process.is_alive():
                    end(process)
            for process in self.processes:
                process.join(PATIENCE)

    def changes(self) -> int:
        """Return the number of changes of files, of the first process."""
        return int(self.pipes[0][0].recv())

    def printed(self) -> str:
        """Return the end of what the processes printed."""
        return self.log.read_text(errors="replace")[-1500:]

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            AssertionError: the work fails.
        """
        status = self.wait()
        assert not any(status), f"exit status {status}: {self.printed()}"


def birth(pid: int) -> str | None:
    """Return when a process was started, which its number alone does not tell; None if it does not run."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] == "Z" else facts[19]


def measure(work: Work, log: Path) -> tuple[float, int]:
    """Do the work undisturbed; returns the seconds from its begin to its end, and the changes of files."""
    work.prepare(work.expected)
    started = Started(work.call(work.expected), work.expected, log, ranks=work.ranks)
    while not work.started(work.expected) and started.running():
        time.sleep(0.005)
    began = time.monotonic()
    started.finish()
    return time.monotonic() - began, started.changes()


def kill_once(work: Work, out: Path, log: Path, seconds: float, changes: int, choice: random.Random) -> str:
    """Start the work, kill one of its processes at a random moment, and check what is left.

    Args:
        work: what to do.
        out: its folder; may hold what an earlier kill has left.
        log: file for what it prints.
        seconds: of the work when it is not disturbed.
        changes: of files, likewise.
        choice: source of the moment.

    Returns:
        Which process was killed, or "none" if the work ended before the kill.
    """
    killed, births = "none", dict[int, str | None]()
    if changes and choice.random() > work.timed:
        event, delay = choice.randint(1, changes), 10 ** choice.uniform(-6, -2)
        started = Started(work.call(out), out, log, ranks=work.ranks, event=event, delay=delay)
        while started.running():
            births = {child: birth(child) for child in started.pids()[work.ranks :]}
            time.sleep(0.01)
    else:
        started = Started(work.call(out), out, log, ranks=work.ranks)
        while not work.started(out) and started.running():
            time.sleep(0.005)
        end = time.monotonic() + choice.uniform(0, 0.8 * seconds)
        while started.running() and time.monotonic() < end:
            time.sleep(0.001)
        pids = started.pids() if started.running() else []
        children = pids[work.ranks :]
        births = {child: birth(child) for child in children}
        if pids:
            kind = children if children and choice.random() < 0.7 else pids[: work.ranks]
            victim = choice.choice(kind)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                killed = "worker" if victim in children else "parent"
    status = started.wait()
    if any(each in (-signal.SIGKILL, -signal.SIGALRM) for each in status):
        killed = "parent" if work.ranks == 1 else "one of two"
    # 1: a video failed, whose worker was killed, or a process whose group was left
    expected = (0, 1, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGALRM)
    assert all(each in expected for each in status), f"exit status {status}: {started.printed()}"
    end = time.monotonic() + LONGEST
    # workers end with their parent
    while any(began is not None and birth(child) == began for child, began in births.items()):
        assert time.monotonic() < end, f"{work.name}: a worker goes on without its parent"
        time.sleep(0.01)
    work.check_left(out)
    return killed


def run(
    moments: int, *, seed: int, make_video: Callable[..., Path], folder: Path, kinds: tuple[type[Work], ...] = KINDS
) -> dict[str, Result]:
    """Kill at random moments, the kinds of work in turn; returns the result of each kind."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    CONTEXT.set_forkserver_preload(PRELOADED)
    choice, log = random.Random(seed), folder / "log"
    works: list[tuple[Work, float, int]] = []
    none = folder / "none"
    inputs = Inputs(folder / "inputs", make_video, lambda words: Started((vidseg, (words,)), none, log).finish())
    inputs.folder.mkdir()
    results: dict[str, Result] = {}
    for kind in kinds:
        work = kind(inputs, folder / kind.__name__)
        works.append((work, *measure(work, log)))
        results[work.name] = Result(work.checked)
    turn = done = 0
    while done < moments:
        work, seconds, changes = works[turn % len(works)]
        result, out = results[work.name], folder / f"turn{turn}"
        turn += 1
        work.prepare(out)
        try:
            while True:
                done += 1
                victim = kill_once(work, out, log, seconds, changes, choice)
                result.victims[victim] += 1
                print(f"{done} of {moments}: {work.name}: {victim}", file=sys.stderr, flush=True)
                if done == moments or choice.random() > AGAIN:
                    break
            if work.repeated:
                Started(work.call(out), out, log, ranks=work.ranks).finish()
            work.check_end(out)
        except Exception:  # noqa: BLE001 - whatever is raised is a finding
            result.findings.append(traceback.format_exc(limit=-3))
            print(f"{work.name}: {result.findings[-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return results


def table(results: dict[str, Result]) -> str:
    """Return the results as a table."""
    lines = ["| work | killed | checked | findings |", "| --- | --- | --- | ---: |"]
    for name, result in results.items():
        killed = ", ".join(f"{victim} {count}" for victim, count in sorted(result.victims.items()))
        lines.append(f"| {name} | {killed} | {result.checked} | {len(result.findings)} |")
    return "\n".join(lines)


def main() -> int:
    """Run the program; the exit status is 1 if something was lost or damaged."""
    from conftest import make_video

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="part of the names of the kinds of work; default: all kinds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make: Any = make_video.__wrapped__() if hasattr(make_video, "__wrapped__") else make_video
        kinds = tuple(kind for kind in KINDS if (options.work or "") in kind.name)
        results = run(options.moments, seed=options.seed, make_video=make, folder=Path(folder), kinds=kinds)
    print(json.dumps({name: vars(result) for name, result in results.items()}) if options.json else table(results))
    return 1 if any(result.findings for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
