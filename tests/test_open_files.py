"""A small `ulimit -n`: raised to what is needed where the hard limit allows it, else an error that says so."""

import ast
import resource
import subprocess
import sys

import pytest
import torch
from clip_data import natural

from vidseg.frames import FrameWriter, encode_rgb
from vidseg.labels import VideoRecord, update_catalog

PROGRAM = """
import resource, sys
from vidseg.labels import open_dataset
from vidseg.loaders import ClipLoader
loader = ClipLoader(open_dataset(sys.argv[1]), frames=1, size=32, batch_size=120, threads=4, dtype="uint8", train=False)
print(sum(len(batch) for batch in loader), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    jpegs = encode_rgb(torch.from_numpy(natural(1)), 80)
    records = []
    for number in range(120):
        with FrameWriter(root / f"jpg/a/{number}/frames.db") as writer:
            writer.add(jpegs[0], width=131)
        size = (root / f"jpg/a/{number}/frames.db").stat().st_size
        records.append(VideoRecord(f"jpg/a/{number}", "a", 1, 90, 131, 25.0, 0.04, size))
    update_catalog(root, records)
    return root


def run(command: list[str], soft: int, hard: int) -> subprocess.CompletedProcess:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)


def test_a_loader_raises_a_small_soft_limit(many):
    result = run([sys.executable, "-c", PROGRAM, str(many)], 40, 1000)
    assert result.returncode == 0, result.stderr
    clips, _, limits = result.stdout.partition(" ")
    soft, hard = ast.literal_eval(limits)
    assert int(clips) == 120
    assert 100 < soft < 300
    assert hard == 1000


def test_a_loader_names_a_small_hard_limit(many):
    result = run([sys.executable, "-c", PROGRAM, str(many)], 40, 60)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "a loader with 4 threads needs" in last
    assert "this process may have 60" in last
    assert "ulimit -n" in last


@pytest.mark.parametrize("hard, status", [(60, 1), (4000, 0)])
def test_a_conversion_with_many_workers(tmp_path, make_video, hard, status):
    make_video(tmp_path / "v/run/a.mp4", frames=2)
    command = [sys.executable, "-m", "vidseg.cli.main", "convert", str(tmp_path / "v"), str(tmp_path / "data")]
    result = run([*command, "--workers", "60"], 50, hard)
    assert result.returncode == status, result.stderr
    assert ("a run with 60 workers needs" in result.stderr) == bool(status)
