"""Pictures of segments and label counts: the bars hold the labels, colors and ticks are where they should be."""

import itertools

import numpy as np
import pytest
from PIL import Image

from vidseg.cli.main import main
from vidseg.labels import SegmentationLabels, apply_segmentation
from vidseg.labels.segmentation_files import write_frame_labels, write_mapping
from vidseg.plots import (
    SegmentedVideo,
    class_colors,
    plot_label_counts,
    plot_palette,
    plot_segment_errors,
    plot_segments,
)

CLASSES = ["none", "take", "open", "pour"]
TRUTH = np.repeat([0, 1, 2, 1], [20, 40, 20, 20])
PREDICTION = np.repeat([0, 1, 3, 2, 1], [20, 30, 10, 20, 20])
BLUE = (0x2A, 0x78, 0xD6)
WRONG = (25, 25, 64)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def near(picture: np.ndarray, color) -> np.ndarray:
    """Which pixels have the color (0..1 or 0..255)."""
    color = np.array(color, float)
    return np.abs(picture - (color * 255 if color.max() <= 1 else color)).max(axis=-1) <= 3


def bands(picture: np.ndarray, color) -> list[tuple[int, int]]:
    """Rows (first, last) of each stretch of rows where more than 20 pixels have the color."""
    rows = np.flatnonzero(near(picture, color).sum(axis=1) > 20)
    parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [(part[0], part[-1]) for part in parts if len(part) > 1]


def labels_in(picture: np.ndarray, row: int, colors: np.ndarray) -> np.ndarray:
    """The class of each pixel of a row that has a class's color."""
    distance = np.abs(picture[row][:, None] - colors[None] * 255).max(axis=-1)
    found = distance.argmin(axis=1)
    return found[distance.min(axis=1) <= 3]


def shares(values: np.ndarray) -> list[tuple[int, float]]:
    """Runs as (class, share of the width); runs below half a per cent are borders between colors."""
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]
    return [(int(values[a]), (b - a) / len(values)) for a, b in itertools.pairwise(cuts) if b - a > len(values) / 200]


@pytest.mark.parametrize("palette", ["bright", "voc"])
def test_bars_hold_truth_and_prediction(tmp_path, palette):
    path = plot_segments([SegmentedVideo("v", TRUTH, PREDICTION)], CLASSES, tmp_path / "v.png", palette=palette)
    picture, colors = pixels(path), class_colors(4, palette)
    (wrong,) = bands(picture, WRONG)
    upper, lower = labels_in(picture, wrong[0] - 30, colors), labels_in(picture, wrong[1] + 30, colors)
    assert shares(upper) == [(label, pytest.approx(share, abs=0.005)) for label, share in
                             [(0, 0.2), (1, 0.4), (2, 0.2), (1, 0.2)]]  # fmt: skip
    assert shares(lower) == [(label, pytest.approx(share, abs=0.005)) for label, share in
                             [(0, 0.2), (1, 0.3), (3, 0.1), (2, 0.2), (1, 0.2)]]  # fmt: skip
    middle = near(picture[wrong[0] + 2], WRONG).sum() / len(upper)
    assert middle == pytest.approx(0.1, abs=0.01)  # frames 50 to 60


def test_a_page_has_a_row_for_each_video_and_a_legend(tmp_path):
    short = SegmentedVideo("short", np.array([1, 1, 2]), np.array([1, 2, 2]))
    colors = class_colors(4)
    one = pixels(plot_segments([short], CLASSES, tmp_path / "1.png"))
    page = pixels(plot_segments([short] * 6, CLASSES, tmp_path / "6.png", title="six"))
    assert len(bands(page, WRONG)) == 6 and len(bands(one, WRONG)) == 1
    # what does not occur is not in the legend
    assert near(page, colors[1]).any() and not near(page, colors[3]).any() and not near(page, colors[0]).any()
    alone = pixels(plot_segments([SegmentedVideo("v", TRUTH)], CLASSES, tmp_path / "t.png"))
    assert not bands(alone, WRONG) and near(alone, colors[2]).any()


def test_window_ticks(tmp_path):
    video = SegmentedVideo("v", np.zeros(100, int), np.zeros(100, int))
    plain = pixels(plot_segments([video], CLASSES, tmp_path / "a.png"))
    ticks = pixels(plot_segments([video], CLASSES, tmp_path / "b.png", window=40))
    color = class_colors(1)[0]

    def gaps(picture):
        """Where the bar of one color is interrupted, as shares of its width."""
        inside = near(picture[bands(picture, color)[0][0] + 20], color)
        first, last = np.flatnonzero(inside)[[0, -1]]
        starts = np.flatnonzero(np.diff(inside[first:last].astype(int)) == -1) + 1
        return [start / (last - first) for start in starts]

    assert gaps(plain) == [] and gaps(ticks) == [pytest.approx(0.4, abs=0.01), pytest.approx(0.8, abs=0.01)]


def test_the_published_palette():
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
                (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0)]  # fmt: skip
    assert (class_colors(11, "voc") * 255).round().astype(int).tolist() == [list(color) for color in expected]


@pytest.mark.parametrize("palette, count, apart", [("bright", 48, 25), ("voc", 200, 8)])
def test_colors_of_classes_differ(palette, count, apart):
    colors = class_colors(count, palette) * 255
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1000 * np.eye(count)
    assert distance.min() > apart
    assert class_colors(0, palette).shape == (0, 3)


def test_palette_picture(tmp_path):
    picture = pixels(plot_palette(CLASSES, tmp_path / "palette.png"))
    assert all(near(picture, color).sum() > 50 for color in class_colors(4))


@pytest.mark.parametrize(
    "videos, options, message",
    [
        ([], {}, "0 videos"),
        ([SegmentedVideo("v", TRUTH, PREDICTION[:-1])], {}, "'v': 100 true labels, but 99"),
        ([SegmentedVideo("v", TRUTH + 3)], {}, "'v': labels 3 to 5, expected 0 to 3"),
        ([SegmentedVideo("v", TRUTH)], {"window": 0}, "window=0"),
    ],
)
def test_wrong_use(tmp_path, videos, options, message):
    with pytest.raises(ValueError, match=message):
        plot_segments(videos, CLASSES, tmp_path / "x.png", **options)
    assert not (tmp_path / "x.png").exists()


def test_label_counts(tmp_path):
    path = plot_label_counts(["a", "b", "c"], [60, 30, 0], [[2.0, 2.0], [1.0] * 2, []], tmp_path / "c.png", title="d")
    picture = pixels(path)
    left = picture[:, : picture.shape[1] // 3]
    lengths = [int(near(left[(top + bottom) // 2], BLUE).sum()) for top, bottom in bands(left, BLUE)]
    assert len(lengths) == 2 and lengths[0] / lengths[1] == pytest.approx(2, abs=0.05)
    with pytest.raises(ValueError, match=r"number of segments \(0\) at least 1"):
        plot_label_counts(["a"], [0], [[]], tmp_path / "x.png")


def test_errors(tmp_path):
    confusion = np.array([[50, 0, 0], [30, 10, 0], [0, 10, 20]])
    f1 = {0.5: [80.0, 20.0, 0.0], 0.1: [80.0, 40.0, 0.0]}
    path = plot_segment_errors(["a", "b", "c"], f1, confusion, [0, 0, 3, -4], tmp_path / "e.png", title="run")
    picture = pixels(path)
    orange = bands(picture, (0xD9, 0x62, 0x2B))
    longest, second = (int(near(picture[(top + bottom) // 2], (0xD9, 0x62, 0x2B)).sum()) for top, bottom in orange)
    assert longest / second == pytest.approx(3, abs=0.1)  # b as a, c as b
    left = picture[:, : picture.shape[1] // 3]
    strict = [int(near(left[(top + bottom) // 2], BLUE).sum()) for top, bottom in bands(left, BLUE)]
    assert strict[0] / strict[1] == pytest.approx(4, abs=0.1)
    with pytest.raises(ValueError, match=r"numbers of classes differ: names 2, F1 \[3, 3\]"):
        plot_segment_errors(["a", "b"], f1, confusion, [], tmp_path / "x.png")
    assert plot_segment_errors(["a"], {0.5: [100.0]}, [[5]], [], tmp_path / "right.png").is_file()


def published_folder(folder):
    """What the evaluation leaves: two files a video."""
    folder.mkdir()
    for name, truth, prediction in (("a-1", TRUTH, PREDICTION), ("b", TRUTH, TRUTH), ("c", TRUTH, TRUTH[::-1])):
        write_frame_labels(folder / f"{name}-gt.txt", truth, CLASSES)
        write_frame_labels(folder / f"{name}-pred.txt", prediction, CLASSES)
    return folder


def test_commands(tmp_path, capsys):
    folder, mapping = published_folder(tmp_path / "lists"), tmp_path / "mapping.txt"
    write_mapping(mapping, CLASSES)
    words = ["plot", "segments", str(folder), str(mapping)]
    assert main([*words, "--out", str(tmp_path / "imgs"), "--sliding_windows", "40", "--palette", "voc"]) == 0
    assert sorted(path.name for path in (tmp_path / "imgs").iterdir()) == ["a-1.png", "b.png", "c.png", "palette.png"]
    assert capsys.readouterr().out.count("\n") == 4
    assert main([*words, "--out", str(tmp_path / "page.png"), "--rows", "2"]) == 0
    assert len(bands(pixels(tmp_path / "page.png"), WRONG)) == 2  # the two with mistakes
    assert main([*words, "--out", str(tmp_path / "b.png"), "--videos", "b"]) == 0
    assert bands(pixels(tmp_path / "b.png"), WRONG) == []
    assert main(["plot", "errors", str(folder), str(mapping), "--out", str(tmp_path / "errors")]) == 0
    assert len(list((tmp_path / "errors").iterdir())) == 3
    (folder / "d-gt.txt").write_text("take\n")
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "page.png")]) == 1
    assert "d: only one of truth and prediction exists" in capsys.readouterr().err
    assert main([*words, "--videos", "z"]) == 2
    labels = {"v": TRUTH, "w": PREDICTION}
    (tmp_path / "data").mkdir()
    apply_segmentation(tmp_path / "data", SegmentationLabels(CLASSES, labels, {"train": ["v"]}, 15.0))
    assert main(["plot", "labels", str(tmp_path / "data"), "--split", "train", "--out", str(tmp_path / "l.png")]) == 0
    assert near(pixels(tmp_path / "l.png"), BLUE).sum() > 2000
