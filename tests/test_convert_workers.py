"""Worker processes of a conversion: they start without torch, no message is lost, and time limits start with the
video.
"""

import subprocess
import sys

import pytest

from vidseg.convert import ConvertOptions
from vidseg.convert.conversion import Outcome
from vidseg.convert.pool import WorkerStartError, run_local
from vidseg.videos.listing import Job

# A worker that starts after argv[1] seconds and writes all messages of a job at once.
WORKER = """
import json, sys, time
time.sleep(float(sys.argv[1]))
for line in sys.stdin:
    job = json.loads(line)["job"]
    done = {"source": job["source"], "target": job["target"], "state": "converted", "frames": 9}
    lines = [{"ready": 1}, {"began": job["target"]}, {"frames": 4}, {"frames": 8}, {"done": done}]
    sys.stdout.write("".join(json.dumps(line) + "\\n" for line in lines))
    sys.stdout.flush()
"""
JOBS = [Job(f"{number}.mp4", "video", f"run/{number}") for number in range(3)]


def outcomes(tmp_path, monkeypatch, delay: float, **limits: float) -> list[Outcome]:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr("vidseg.convert.pool._COMMAND", (sys.executable, str(tmp_path / "worker.py"), str(delay)))
    options = ConvertOptions(workers=1, **limits)
    return [item for item in run_local(JOBS, tmp_path / "jpg", options) if isinstance(item, Outcome)]


def test_messages_that_arrive_together_are_all_read(tmp_path, monkeypatch):
    results = outcomes(tmp_path, monkeypatch, 0.0, stall_limit=1.0)
    assert [(result.target, result.state, result.frames, result.problem) for result in results] == [
        (f"run/{number}", "converted", 9, None) for number in range(3)
    ]


def test_limits_start_with_the_video_and_not_with_imports(tmp_path, monkeypatch):
    results = outcomes(tmp_path, monkeypatch, 2.0, stall_limit=0.5, time_limit=1.0)
    assert [result.state for result in results] == ["converted"] * 3


def test_a_worker_that_never_starts_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("vidseg.convert.pool._START_SECONDS", 1.0)
    with pytest.raises(WorkerStartError, match="did not start within 1 s"):
        outcomes(tmp_path, monkeypatch, 60.0)


# Converts the videos of argv[1] into argv[2], as the command does and as its worker does, and scans the data set.
COMMANDS = """
import sys
from pathlib import Path
import vidseg.convert.worker
from vidseg.cli.main import main
from vidseg.convert.conversion import convert_one
from vidseg.videos.listing import find_jobs
source, target = map(Path, sys.argv[1:])
(job,) = find_jobs(source).jobs
outcome = convert_one(job, target / "again/jpg", vidseg.convert.ConvertOptions(size="32"), lambda frames: None)
assert outcome.problem is None and outcome.frames == 10, outcome
assert main(["convert", str(source), str(target), "--size", "32", "--workers", "1"]) == 0
assert main(["labels", "scan", str(target)]) == 0
print(sorted({"torch", "numba", "scipy", "matplotlib"} & set(sys.modules)))
"""


def test_conversion_and_scan_do_not_import_torch(tmp_path, make_video):
    """A start of torch takes longer than the conversion of several videos, in each worker."""
    make_video(tmp_path / "videos/run/a.mp4")
    command = [sys.executable, "-c", COMMANDS, str(tmp_path / "videos"), str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
