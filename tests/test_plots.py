"""Pictures: they show the frames and numbers that they are given."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vidseg.cli.main import main
from vidseg.frames import FrameDatabase, FrameWriter
from vidseg.plots import contact_sheet, plot_confusion, plot_curves
from vidseg.plots.contact import time_code
from vidseg.plots.curves import best_scores, read_run, read_scores

BLUE, ORANGE = (0x2A, 0x78, 0xD6), (0xD9, 0x62, 0x2B)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count(picture: np.ndarray, color, *, within: int = 12) -> int:
    return int((np.abs(picture - np.array(color)).max(axis=-1) <= within).sum())


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0:00.000"), (3.1204, "0:03.120"), (59.9996, "1:00.000"), (3723.004, "1:02:03.004"), (754.5, "12:34.500")],
)
def test_time_codes(seconds, text):
    assert time_code(seconds) == text


def database(folder, color, *, frames: int = 30, size=(48, 64), fps: float | None = 10) -> FrameDatabase:
    """A video in one color that gets brighter from frame to frame."""
    import io

    height, width = size
    with FrameWriter(folder / "frames.db", meta={"height": height, "width": width}) as writer:
        for index in range(frames):
            buffer = io.BytesIO()
            level = np.array(color) * (0.3 + 0.7 * index / max(1, frames - 1))
            Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(buffer, "JPEG", quality=95)
            writer.add(buffer.getvalue(), width=width, timestamp=None if fps is None else index / fps)
    return FrameDatabase(folder)


def test_contact_sheet_of_one_video(tmp_path):
    video = database(tmp_path / "clip", (200, 30, 30))
    picture = pixels(contact_sheet([("clip", video)], tmp_path / "sheet.png", columns=4, rows=3))
    reds = np.unique(picture[(picture[..., 0] > 45) & (picture[..., 2] < 45)][:, 0])
    assert reds.min() < 70 and reds.max() > 190  # from the first to the last frame
    assert 0.6 < picture.shape[0] / picture.shape[1] < 0.7  # three rows of four pictures of 4:3, and a title
    # in reading order the pictures get brighter
    middle = [
        picture[int(row), int(picture.shape[1] * (column + 0.5) / 4), 0]
        for row in rows_of(picture, 3)
        for column in range(4)
    ]
    assert middle == sorted(middle) and middle[-1] - middle[0] > 100


def rows_of(picture: np.ndarray, number: int) -> np.ndarray:
    """Middle line of each row of pictures, below the title."""
    red = (picture[..., 0] - picture[..., 2] > 20).mean(axis=1) > 0.5
    starts = np.flatnonzero(np.diff(red.astype(int)) == 1) + 1
    stops = np.flatnonzero(np.diff(red.astype(int)) == -1) + 1
    assert len(starts) >= number
    stops = np.append(stops, len(red))[: len(starts)]
    runs = sorted(zip(starts, stops, strict=True), key=lambda run: run[0] - run[1])[:number]
    return np.sort([(start + stop) / 2 for start, stop in runs])


def test_contact_sheet_of_several_videos_has_a_row_for_each(tmp_path):
    videos = [
        ("red", database(tmp_path / "a", (220, 30, 30))),
        ("blue", database(tmp_path / "b", (30, 30, 220), fps=None)),
    ]
    picture = pixels(contact_sheet(videos, tmp_path / "sheet.png", columns=5))
    upper, lower = picture[: len(picture) // 2], picture[len(picture) // 2 :]
    red, blue = (
        (lambda part: count(part, (220, 30, 30), within=40)),
        (lambda part: count(part, (30, 30, 220), within=40)),
    )
    assert red(upper) > 10_000 > blue(upper) and blue(lower) > 10_000 > red(lower)


def test_contact_sheet_of_a_short_video_and_wrong_use(tmp_path):
    video = database(tmp_path / "clip", (200, 200, 30), frames=2)
    assert contact_sheet([("clip", video)], tmp_path / "sheet.pdf", columns=6, rows=4).read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet([("clip", video)], tmp_path / "x.png", columns=0)
    with pytest.raises(ValueError, match=r"x\.docx"):
        contact_sheet([("clip", video)], tmp_path / "x.docx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "sheet.pdf"]


def write_scores(path, values) -> None:
    path.write_text("Epoch,Top1,Top5,Loss\n" + "".join(f"{e},{a},{b},{c}\n" for e, a, b, c in values))


def test_curves_show_what_the_tables_hold(tmp_path):
    write_scores(tmp_path / "train_results_s0001.csv", [(1, 0.1, 0.5, 2.0), (2, 0.6, 0.9, 1.0), (3, 0.9, 1.0, 0.3)])
    only_training = pixels(plot_curves(tmp_path, tmp_path / "curves.png"))
    assert count(only_training, BLUE) > 500 and count(only_training, ORANGE) == 0
    write_scores(tmp_path / "val_results_s0001.csv", [(1, 0.2, 0.5, 1.9), (3, 0.8, 1.0, 0.5)])
    both = pixels(plot_curves(tmp_path, tmp_path / "curves.png", title="run"))
    assert count(both, BLUE) > 500 and count(both, ORANGE) > 500


def test_tables_of_a_resumed_run_are_one(tmp_path):
    write_scores(tmp_path / "val_results_s0001.csv", [(1, 0.2, 0.5, 1.9), (2, 0.9, 1.0, 0.5), (3, 0.3, 1, 1)])
    write_scores(tmp_path / "val_results_s0002.csv", [(2, 0.7, 1.0, 0.4)])
    header, scores = read_run(tmp_path, "val")
    assert header == ["Epoch", "Top1", "Top5", "Loss"] and scores[:, 1].tolist() == [0.2, 0.7]
    assert best_scores(tmp_path) == {"epoch": 2, "top1": 0.7, "top5": 1.0, "loss": 0.4}
    assert best_scores(tmp_path / "absent") is None


def test_curves_of_frame_labels(tmp_path):
    for kind in ("train", "val"):
        (tmp_path / f"{kind}_results_s0001.csv").write_text("Epoch,Acc,Loss\n1,0.2,2\n2,0.5,1\n")
    picture = pixels(plot_curves(tmp_path, tmp_path / "curves.png"))
    assert count(picture, BLUE) > 100 and count(picture, ORANGE) > 100


def test_curves_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_results"):
        plot_curves(tmp_path, tmp_path / "curves.png")
    (tmp_path / "train_results_s0001.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="csv:1: header 'a,b', expected Epoch"):
        plot_curves(tmp_path, tmp_path / "curves.png")
    write_scores(tmp_path / "train_results_s0001.csv", [(1, 0.1, 0.2, "much")])
    with pytest.raises(ValueError, match="much"):
        read_scores(tmp_path / "train_results_s0001.csv")


def test_confusions_are_shares_of_their_row(tmp_path):
    """A class that is always right is dark on the diagonal, whatever its size; an unused cell stays empty."""
    picture = pixels(plot_confusion([[2, 0], [10, 20]], ["rare", "common"], tmp_path / "c.png", title="run"))
    whole, third = (0x12, 0x38, 0x6B), (0xA9, 0xCB, 0xF2)
    assert all(count(picture, color, within=3) > 5_000 for color in (whole, BLUE, third))
    many = np.eye(70, dtype=int)
    assert pixels(plot_confusion(many, [f"class {index}" for index in range(70)], tmp_path / "many.png")).size
    with pytest.raises(ValueError, match="2 class names"):
        plot_confusion([[1]], ["a", "b"], tmp_path / "x.png")


def test_commands(tmp_path, capsys, monkeypatch):
    from shapes import shapes_dataset

    root = shapes_dataset(tmp_path / "shapes", videos=8, frames=4)
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "contact", str(root), "--columns", "3", "--rows", "2"]) == 0
    assert capsys.readouterr().out == "contact.png\n"
    rows, columns = pixels("contact.png").shape[:2]
    assert rows * 2 < columns  # two rows of three pictures
    assert main(["plot", "contact", str(root / "jpg/pulse/pulse_0000"), "--out", "pulse.png"]) == 0
    write_scores(tmp_path / "train_results_s0001.csv", [(1, 0.1, 0.5, 2.0)])
    assert main(["plot", "curves", "."]) == 0
    capsys.readouterr()
    assert main(["plot", "confusion", "."]) == 2
    assert "run `vidseg test" in capsys.readouterr().err
    (tmp_path / "test.json").write_text('{"confusion": [[1, 0], [0, 1]], "classes": ["a", "b"]}')
    assert main(["plot", "confusion", "."]) == 0
    assert {"pulse.png", "curves.png", "confusion.png"} <= {path.name for path in tmp_path.iterdir()}


def test_no_global_state_of_matplotlib():
    code = "import sys, vidseg.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
