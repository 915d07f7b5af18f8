"""What pictures say: headings, names, marks, axes and colors, read from the figures that are saved."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from test_plots import database, write_scores

from vidseg.cli.main import main
from vidseg.frames import FrameDatabaseError
from vidseg.metrics import Detections, detection_map, precision_recall, reliability
from vidseg.plots import (
    SegmentedVideo,
    class_colors,
    contact_sheet,
    plot_confusion,
    plot_curves,
    plot_label_counts,
    plot_precision_recall,
    plot_rates,
    plot_reliability,
    plot_schedule,
    plot_segment_errors,
    plot_segments,
    plot_speeds,
    use_theme,
)
from vidseg.plots.canvas import epoch_ticks, label_ends, new_figure, shortened
from vidseg.plots.palette import BLUE, CLASSES, DARK, GRAY, GREEN, LIGHT, ORANGE, readable_on
from vidseg.plots.search_pictures import plot_importance
from vidseg.tasks.recognition.class_report import draw_mistakes

# Machado et al., IEEE TVCG 15(6), 2009, Table 1, severity 1: linear RGB as people without one kind of cone see it.
VIEWS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.fixture
def figures(monkeypatch):
    """Figures in the order in which they are saved."""
    found, save = [], Figure.savefig

    def kept(self, *args, **options):
        found.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return found


def texts(figure) -> list[str]:
    """Every text of a figure that is not empty."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def boxes(figure, wanted):
    """Extents in pixels of the texts that fit `wanted`."""
    from matplotlib.text import Text

    figure.canvas.draw()
    return [text.get_window_extent() for text in figure.findobj(Text) if wanted(text)]


def lab(colors, matrix):
    colors = np.asarray(colors)
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.asarray(matrix).T).clip(0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def closest(colors) -> float:
    """Smallest CIELAB distance of two colors in the least favorable view."""
    least = np.inf
    for matrix in VIEWS.values():
        values = lab(colors, matrix)
        distance = np.linalg.norm(values[:, None] - values[None], axis=-1)
        least = min(least, distance[~np.eye(len(values), dtype=bool)].min())
    return least


@pytest.mark.parametrize(
    "colors, apart",
    [((BLUE, ORANGE, GREEN), 16), (CLASSES[:12], 16), (CLASSES[:20], 14), ((*CLASSES[:12], GRAY), 14)],
    ids=["series", "12 classes", "20 classes", "with background"],
)
def test_colors_differ_for_color_blind_people(colors, apart):
    assert closest([to_rgb(color) for color in colors]) > apart


def test_background_is_gray_and_more_classes_have_lighter_colors():
    colors = class_colors(100, background=[3])
    assert to_hex(colors[3]) == GRAY and to_hex(colors[2]) == CLASSES[2]
    assert (colors[48:] >= colors[:52])[4:].all() and len(np.unique(colors.round(3), axis=0)) == 100


def test_text_has_contrast():
    assert readable_on((0.07, 0.2, 0.4)) == "white" and readable_on((0.66, 0.8, 0.95)) != "white"


def test_headings_are_wrapped_and_never_cut():
    figure = new_figure(
        4, 2, title="a network with a long name on a data set with a long name, split1", detail="x" * 90
    )
    width, height = figure.get_size_inches() * figure.dpi
    found = boxes(figure, lambda text: text in figure.texts)
    assert len(found) >= 4 and height > 2.9 * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width and box.y1 <= height and box.y0 > 2 * figure.dpi for box in found)


def test_long_names_lose_their_middle():
    assert shortened("holiday.mp4", 20) == "holiday.mp4"
    assert shortened("a_very_long_name_of_a_video.mp4", 11) == "a_ver…o.mp4"


@pytest.mark.parametrize(
    "first, last, ticks",
    [
        (1, 5, [1, 2, 3, 4, 5]),
        (1, 30, [1, 5, 10, 15, 20, 25, 30]),
        (1, 1, [1]),
        (11, 14, [11, 12, 13, 14]),
    ],
)
def test_axes_of_epochs_begin_with_the_first(first, last, ticks):
    assert epoch_ticks(first, last) == ticks


def test_names_at_the_ends_of_lines_do_not_overlap():
    figure = new_figure(6, 3)
    axes = figure.add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 1)
    names = ["first", "second", "third", "fourth"]
    label_ends(axes, [(10, y, name, to_rgb(BLUE)) for y, name in zip((0.5, 0.51, 0.52, 0.9), names, strict=True)])
    figure.canvas.draw()
    found = {text.get_text(): text.get_window_extent() for text in axes.texts}
    order = ["fourth", "third", "second", "first"]
    assert all(found[above].y0 >= found[below].y1 - 1 for above, below in itertools.pairwise(order))
    assert axes.get_xlim() == (0, 10)


def mistakes(folder, number):
    database(folder / "jpg/open/kitchen_7", (200, 30, 30))
    one = SimpleNamespace(
        video="jpg/open/kitchen_7",
        true="open the cupboard",
        predicted="close",
        probability_predicted=0.8,
        probability_true=0.1,
    )
    return SimpleNamespace(mistakes=[one] * number, dataset=str(folder), network="r3d_18", split="test")


@pytest.mark.parametrize("number", [1, 2])
def test_every_mistake_names_its_video_and_classes(tmp_path, figures, number):
    draw_mistakes(mistakes(tmp_path, number), tmp_path)
    (figure,) = figures
    (label, *more) = [text for text in texts(figure) if "kitchen_7" in text]
    assert len(more) == number - 1
    assert "true: open the" in label and "predicted: close" in label and "80%, true class 10%" in label
    width = figure.get_size_inches()[0] * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes(figure, lambda text: "kitchen_7" in text.get_text()))


def test_contact_sheets_mark_damaged_videos(tmp_path, figures):
    good, bad = database(tmp_path / "good", (200, 30, 30)), database(tmp_path / "bad", (200, 30, 30))
    bad.meta["damage"] = json.dumps(["7 frames are missing"])
    broken = FrameDatabaseError("c/frames.db: not a database")
    contact_sheet([("good", good), ("bad" * 30, bad), ("broken", broken)], tmp_path / "c.png", columns=3)
    (figure,) = figures
    edges = [sum(to_hex(patch.get_edgecolor()) == ORANGE for patch in axes.patches) for axes in figure.axes]
    assert edges == [0] * 4 + [0, 1, 1, 1] + [0] * 4  # a label and three frames in each row
    found = " ".join(texts(figure)).replace("\n", " ")
    assert "7 frames are missing" in found and "cannot be read: c/frames.db: not a database" in found
    assert "bad" * 30 not in found
    assert all(box.x0 >= 0 for box in boxes(figure, lambda text: text.get_text().startswith("bad")))
    contact_sheet([("W" * 40, good), ("good", good)], tmp_path / "c.png")
    assert all(box.x0 >= 0 for box in boxes(figures.pop(), lambda text: text.get_text().startswith("W")))
    contact_sheet([("bad", bad)], tmp_path / "c.png")
    assert any("damaged: 7 frames are missing" in text for text in texts(figures[1]))


def test_digits_of_confusions_are_readable(tmp_path, figures):
    plot_confusion([[90, 10], [12345, 54321]], ["a", "b"], tmp_path / "c.png", title="run on data", unit="frames")
    (figure,) = figures
    cells = {text.get_text(): text for text in figure.axes[0].texts}
    assert set(cells) == {"90", "10", "12k", "54k"} and all(text.get_fontsize() >= 9.5 for text in cells.values())
    assert cells["90"].get_color() == "white" and cells["10"].get_color() != "white"
    assert texts(figure)[:1] == ["run on data"] or "run on data" in texts(figure)
    assert any("of 66 766 frames" in text for text in texts(figure))
    width = figure.get_size_inches()[0] * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes(figure, lambda text: text in figure.texts))


def test_curves_mark_the_best_epoch_and_clipped_losses(tmp_path, figures):
    rows = [(epoch, epoch / 20 if epoch < 9 else 0.3, 1.0, 3.0 / epoch if epoch != 2 else 50) for epoch in range(1, 13)]
    for kind in ("train", "val"):
        write_scores(tmp_path / f"{kind}_results_s0001.csv", rows)
    plot_curves(tmp_path, tmp_path / "curves.png")
    (figure,) = figures
    loss, score = figure.axes
    (best,) = boxes(figure, lambda text: text.get_text() == "best: 40.0%, epoch 8")
    assert best.y0 >= score.get_window_extent().y1  # above all lines
    assert any(list(line.get_xdata()) == [8, 8] for line in loss.lines)
    assert loss.get_ylim()[1] < 5 and [text.get_text() for text in loss.texts] == ["50", "50"]
    spikes = [line for line in loss.lines if line.get_marker() == "^"]
    assert [list(line.get_xdata()) for line in spikes] == [[2], [2]]
    assert not spikes[0].get_clip_on() and spikes[0].get_ydata()[0] == loss.get_ylim()[1]
    assert all(0 < axes.get_xlim()[0] < 1 and axes.get_xticks()[0] == 1 for axes in figure.axes)


def test_the_lowest_error_is_the_best(tmp_path, figures):
    (tmp_path / "val_results_s0001.csv").write_text("Epoch,MAE,R2,Loss\n1,9,0,3\n2,4,0.5,2\n3,6,0.3,2\n")
    plot_curves(tmp_path, tmp_path / "curves.png")
    score = figures[0].axes[1]
    assert "best: 4, epoch 2" in [text.get_text() for text in score.texts] and score.get_ylim()[1] > 9


def test_speeds_have_medians_over_epochs(tmp_path, figures):
    line = "Epoch [{}]   Batch [{}]   Speed (r={} f=20 b=10) clip/sec  batch_size = ( 4,3,16,8,8), x (waited 5%)"
    rows = [
        line.format(epoch, number, speed) for epoch in (1, 2) for number, speed in enumerate((100, 300 * epoch, 1e4))
    ]
    (tmp_path / "train.log").write_text("\n".join(rows))
    plot_speeds(tmp_path, tmp_path / "s.png")
    (figure,) = figures
    speeds, waited = figure.axes
    loader = [line.get_ydata()[0] for line in speeds.lines if line.get_linewidth() > 2 and line.get_color() == BLUE]
    assert loader == [300, 600] and waited.get_xlabel() == "epoch"
    assert waited.get_xlim() == pytest.approx((0.45, 2.55)) and any(
        "loader 450, forward 20, backward 10" in text for text in texts(figure)
    )


def test_schedules_leave_out_what_is_constant(tmp_path, figures):
    plot_schedule([(8, 8, 112, 112)] * 4, [0.1, 0.1, 0.01], tmp_path / "s.png")
    plot_schedule([(8, 8, 112, 112), (4, 16, 112, 112)], [0.1] * 3, tmp_path / "s.png")
    constant, cycles = figures
    assert len(constant.axes) == 1 and len(cycles.axes) == 2  # no panel of the constant learning rate
    ticks = [label.get_text() for label in constant.axes[0].get_yticklabels(which="both") if label.get_text()]
    assert "0.1" in ticks and not any("e" in tick for tick in ticks)
    assert any("clips per batch: 8   frames per clip: 8   height, pixels: 112" in text for text in texts(constant))
    assert any("height, pixels: 112   learning rate: 0.1" in text for text in texts(cycles))


CLASS_NAMES = ["background", "take", "pour"]
LABELS = np.repeat([0, 1, 2, 0], [30, 30, 30, 60])


@pytest.mark.parametrize("number", [1, 3])
def test_segments_have_sides_seconds_and_a_gray_background(tmp_path, figures, number):
    videos = [SegmentedVideo(f"v{place}", LABELS, np.roll(LABELS, 9), 15.0) for place in range(number)]
    plot_segments(videos, CLASS_NAMES, tmp_path / "s.png", background=["background"])
    plot_segments([SegmentedVideo("v", LABELS)], CLASS_NAMES, tmp_path / "s.png", background=[])
    figure, plain = figures
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_yticklabels()] == ["truth", "prediction"]
        ticks = [
            (place, label.get_text()) for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        ]
        assert len(ticks) > 3 and all(float(text) == pytest.approx(place / 15) for place, text in ticks)
        assert (
            to_hex(axes.images[0].get_array()[0, 0]) == GRAY and to_hex(axes.images[0].get_array()[0, 40]) == CLASSES[1]
        )
    assert figure.axes[-1].get_xlabel() == "seconds" and any("10.0 s" in text for text in texts(figure))
    assert plain.axes[0].get_xlabel() == "frames" and to_hex(plain.axes[0].images[0].get_array()[0, 0]) == CLASSES[0]


def test_titles_of_errors_do_not_collide(tmp_path, figures):
    names = [f"class {number} with a long name, longer than its column" for number in range(12)]
    counts = np.full((12, 12), 5) + 900 * np.eye(12, dtype=int)
    f1 = {overlap: [50.0] * 12 for overlap in (0.1, 0.25, 0.5)}
    plot_segment_errors(names, f1, counts, [-3, 4, 40], tmp_path / "e.png", title="mstcn on gtea, split1")
    (figure,) = figures
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    found = sorted(boxes(figure, lambda text: text.get_text() in titles), key=lambda box: box.x0)
    assert len(found) == 3 and all(left.x1 < right.x0 for left, right in itertools.pairwise(found))
    assert any("boundaries 4 frames off" in text for text in texts(figure))
    plot_segment_errors(names, f1, counts, [-1, 1], tmp_path / "e.png")
    assert any("boundaries 1 frame off" in text for text in texts(figures[1]))
    assert found[-1].x1 <= figure.get_size_inches()[0] * figure.dpi


def test_durations_have_plain_ticks(tmp_path, figures):
    plot_label_counts(["a", "b"], [10, 20], [[0.6, 0.9], [1.2, 2.4]], tmp_path / "l.png")
    ticks = [label.get_text() for axes in figures[0].axes[1:] for label in axes.get_xticklabels(which="both")]
    assert {"1", "2"} <= set(ticks) and all(tick.replace(".", "").isdigit() for tick in ticks if tick)


def detections():
    """Recalls, precisions and scores of instances that are found, some of them twice."""
    segments = np.array([[1.0, 3.0], [5.0, 8.0], [9.0, 9.5]])
    true = Detections(np.zeros(3, int), segments, np.array([0, 1, 1]), np.ones(3))
    found = Detections(np.zeros(3, int), segments + 0.1, np.array([0, 1, 0]), np.array([0.9, 0.4, 0.3]))
    return (*precision_recall(true, found), detection_map(true, found))


def test_the_legend_of_precisions_is_beside_the_curves(tmp_path, figures):
    plot_precision_recall(*detections(), ["a", "b"], tmp_path / "p.png")
    (figure,) = figures
    curves, bars = figure.axes
    figure.canvas.draw()
    legend = curves.get_legend().get_window_extent()
    assert legend.x0 >= curves.get_window_extent().x1 and legend.x1 <= bars.get_tightbbox().x0


def contrast(one, other) -> float:
    """WCAG 2.2, contrast ratio."""
    colors = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    low, high = sorted(0.05 + linear @ (0.2126, 0.7152, 0.0722))
    return high / low


def draw_everything(folder):
    """One picture of each kind that has text of its own beside headings and ticks."""
    rows = [(epoch, epoch / 20, 1.0, 3.0 if epoch != 2 else 50) for epoch in range(1, 9)]
    write_scores(folder / "train_results_s0001.csv", rows)
    plot_curves(folder, folder / "curves.png", title="run")
    plot_precision_recall(*detections(), ["a", "b"], folder / "precision_recall.png")
    plot_rates({"4x80x80": {"ours": 2.0, "limit": 3.0}}, folder / "rates.png", unit="clips/s", limits=["limit"])
    plot_reliability(
        {"run": reliability(torch.tensor([[0.7, 0.3]] * 4), torch.tensor([0, 0, 1, 1]))}, folder / "calibration.png"
    )
    plot_schedule([(8, 8, 112, 112), (4, 16, 112, 112)], [0.1, 0.01], folder / "schedule.png")
    plot_segments([SegmentedVideo("v", LABELS, np.roll(LABELS, 9), 15.0)], CLASS_NAMES, folder / "segments.png")
    plot_segment_errors(["a", "b"], {0.5: [50.0, 20.0]}, [[5, 1], [2, 9]], [-3, 4], folder / "errors.png")
    plot_label_counts(["a", "b"], [10, 20], [[0.6, 0.9], [1.2, 2.4]], folder / "labels.png")
    plot_importance([("lr", 0.6), ("warmup", 0.4)], folder / "importance.png", title="search")


@pytest.mark.parametrize("name, colors", [("light", LIGHT), ("dark", DARK)])
def test_text_is_readable_in_both_themes(tmp_path, figures, name, colors):
    from matplotlib.text import Text

    with use_theme(name):
        draw_everything(tmp_path)
    assert len(figures) == 9
    for figure in figures:
        assert to_hex(figure.get_facecolor()) == colors.surface
        assert all(to_hex(axes.get_facecolor()) == colors.surface for axes in figure.axes)
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        unreadable = [text.get_text() for text in shown if contrast(text.get_color(), colors.surface) < 3.5]
        assert not unreadable
    assert contrast(colors.mark, colors.surface) > 10  # the line of wrong frames


def test_a_theme_ends_and_is_checked(tmp_path, figures, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.json").write_text('{"confusion": [[3, 0], [1, 2]], "classes": ["a", "b"]}')
    for words, colors in ((["--theme", "dark"], DARK), ([], LIGHT)):
        assert main(["plot", "confusion", ".", *words]) == 0
        figure = figures.pop()
        assert to_hex(figure.get_facecolor()) == colors.surface
        cells = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
        scale = figure.axes[0].images[0].get_cmap()
        assert to_hex(scale(0.0)) == colors.surface and contrast(cells["3"], to_hex(scale(1.0))) > 4.5
    assert main(["plot", "confusion", ".", "--theme", "gray"]) == 2
    with pytest.raises(ValueError, match="expected one of light, dark"), use_theme("gray"):
        pass
