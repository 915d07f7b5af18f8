"""Leaving Python while a loader is iterated: threads end first, and the exit status is the program's own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_loader_features import feature_dataset

from vidseg.convert import convert_videos

PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
from vidseg.labels import open_dataset

loader_name, way, folder = sys.argv[1:4]
data = open_dataset(folder)
if loader_name == "clips":
    from vidseg.loaders import ClipLoader
    loader = ClipLoader(data, frames=16, size=448, batch_size=4, sampler=[0, 1, 2, 3] * 50, ahead_bytes=2 << 30)
elif loader_name == "features":
    from vidseg.loaders import FeatureLoader
    loader = FeatureLoader(data, batch_size=1, train=True)
else:
    from vidseg.clips.stream_windows import WindowShape
    from vidseg.loaders.stream_loader import StreamLoader
    labels = [np.zeros(length, np.int64) for length in data.frames]
    loader = StreamLoader(data, WindowShape(4, 4, 1), labels=labels, size=(448, 448), resize=448, group=4)
signal.signal(signal.SIGINT, signal.default_int_handler)

def threads():
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]

if way == "held":
    iterator = iter(loader)
    next(iterator)
elif way == "unread":
    iterators = [iter(loader)]
    next(iterators[0])
    iterators.append(iterators)  # a reference cycle
elif way == "interrupt":
    for number, batch in enumerate(loader):
        if number == 1:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(30)
elif way == "exit":
    for batch in loader:
        sys.exit(7)
elif way == "error":
    for batch in loader:
        raise ValueError("of the loop's body")
"""
STATUS = {"held": 0, "unread": 0, "interrupt": -signal.SIGINT, "exit": 7, "error": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_video) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exit")
    for number in range(4):
        make_video(folder / f"v/c{number % 2}/{number}.mp4", frames=60, size=(240, 320))
    assert convert_videos(folder / "v", folder / "videos", workers=2).ok
    (folder / "features").mkdir()
    feature_dataset(folder / "features")
    return {"clips": folder / "videos", "streams": folder / "videos", "features": folder / "features"}


@pytest.mark.slow
@pytest.mark.parametrize("way", STATUS)
@pytest.mark.parametrize("loader", ["clips", "features", "streams"])
def test_the_process_ends_with_its_own_status(folders, loader, way):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, loader, way, str(folders[loader])], capture_output=True, text=True, timeout=120
    )
    assert "terminate called" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert result.returncode == STATUS[way], result.stderr
