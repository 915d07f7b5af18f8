"""What several test files share: small videos and databases made on the spot."""

import sqlite3
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

VideoMaker = Callable[..., Path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End the run after a SIGTERM to pytest, such as that of `timeout`.

    A command that a test runs in pytest's process ends with status 143, so the test fails for no reason of its own.
    """
    report = yield
    if report.failed and ": ended by SIGTERM" in report.capstderr:
        item.session.shouldstop = f"pytest received SIGTERM in {item.nodeid}"
    return report


def picture(index: int, *, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth RGB picture that differs from frame to frame: color gradients and a bright square that walks."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 200 / width + 20, y * 200 / height + 20, (x + y + 3 * index) % 120 + 60], axis=-1)
    left = (5 * index) % max(1, width - 12)
    rgb[height // 3 : height // 3 + 10, left : left + 10] = (250, 240, 30)
    return rgb.astype(np.uint8)


@pytest.fixture(scope="session")
def make_video() -> VideoMaker:
    """Write a video file: make_video(path, frames=10, ...) -> path."""
    import av

    def make(
        path: Path,
        *,
        frames: int = 10,
        size: tuple[int, int] = (48, 64),
        fps: int = 25,
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        times: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
        color: dict[str, int] | None = None,
        container_format: str | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = size
        with av.open(str(path), "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            for name, value in (color or {}).items():
                setattr(stream.codec_context, name, value)
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(index, height=height, width=width), format="rgb24")
                frame = frame.reformat(format=pixel_format)
                frame.pts = times[index] if times else index
                frame.time_base = Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture(scope="module")
def served_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of a network for clips and of one for streams, by the names under which a server has them."""
    import torch
    from serve_models import recognition, streaming

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    return {"clips": recognition(folder), "stream": streaming(folder)}


@pytest.fixture(scope="module")
def short_video(tmp_path_factory: pytest.TempPathFactory, make_video: VideoMaker) -> Path:
    """A video of 40 frames."""
    return make_video(tmp_path_factory.mktemp("videos") / "v.mp4", frames=40)


def write_published_database(
    folder: Path, jpegs: Sequence[bytes], *, width: int, order: Sequence[int] | None = None
) -> Path:
    """A frames.db as dataset2database 1.2 writes it: STRING key column, no index, rows in directory order."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "frames.db")
    connection.execute("CREATE TABLE Images(ObjId STRING, frames BLOB, size INT)")
    for index in order or range(len(jpegs)):
        connection.execute(
            "INSERT INTO Images VALUES (?, ?, ?)", (f"{folder.name}/frame_{index + 1:05d}", jpegs[index], width)
        )
    connection.commit()
    connection.close()
    (folder / "n_frames").write_text(str(len(jpegs)))
    return folder / "frames.db"
