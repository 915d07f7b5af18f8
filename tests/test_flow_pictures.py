"""Flow in colors, its legend, and `vidseg plot flow` of video files and of databases."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from shapes import shapes_dataset
from test_motion_vectors import write, x264

from vidseg.cli.main import main
from vidseg.frames import FrameWriter, encode_rgb
from vidseg.frames.flow_database import FlowWriter
from vidseg.frames.flow_form import FlowForm
from vidseg.plots import flow_colors, flow_wheel, residual_colors
from vidseg.plots.flow_coding import flow_radius

RED, YELLOW, CYAN, VIOLET = (255, 0, 0), (255, 229, 0), (0, 209, 255), (88, 0, 255)


def one(x: float, y: float, radius: float = 1.0) -> tuple[int, ...]:
    return tuple(int(value) for value in flow_colors(np.array([[[x]], [[y]]]), radius=radius)[0, 0])


def test_directions_have_the_colors_of_the_wheel():
    assert one(1, 0) == RED
    assert np.abs(np.subtract(one(0, 1), YELLOW)).max() <= 9  # between two of the 55 colors
    assert np.abs(np.subtract(one(-1, 0), CYAN)).max() <= 1
    assert np.abs(np.subtract(one(0, -1), VIOLET)).max() <= 10
    assert one(0, 0) == (255, 255, 255)
    assert one(0.5, 0) == (255, 127, 127)
    assert one(2, 0) == (191, 0, 0)  # longer than the radius: three quarters of the brightness
    assert one(2, 0, radius=4) == one(0.5, 0)


def test_the_wheel_has_55_colors_in_six_parts():
    """Baker et al. 2007: 15 from red to yellow, 6 to green, 4 to cyan, 11 to blue, 13 to magenta, 6 to red."""
    angles = np.pi * (2 * np.arange(55) / 54 - 1)
    flow = -np.stack([np.cos(angles), np.sin(angles)])[:, None]
    colors = flow_colors(flow * (1 - 1e-12), radius=1)[0].astype(int)
    corners = [
        (0, RED),
        (15, (255, 255, 0)),
        (21, (0, 255, 0)),
        (25, (0, 255, 255)),
        (36, (0, 0, 255)),
        (49, (255, 0, 255)),
    ]
    for index, corner in corners:
        assert np.abs(colors[index] - corner).max() <= 2, index
    assert (np.abs(np.diff(colors, axis=0)).max(axis=1) > 10).all()


def test_the_longest_vector_is_saturated():
    flow = np.random.default_rng(0).normal(size=(2, 20, 30)).astype(np.float32)
    longest = np.hypot(*flow).max()
    assert np.array_equal(flow_colors(flow), flow_colors(flow, radius=float(longest)))
    assert np.array_equal(flow_colors(3 * flow), flow_colors(flow))
    assert (flow_colors(np.zeros((2, 4, 5))) == 255).all()
    assert flow_radius([flow * 4]) < 4 * longest and flow_radius([np.zeros((2, 3, 3))]) == 1.0
    with pytest.raises(ValueError, match=r"shape \(3, 4, 5\)"):
        flow_colors(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="radius is 0"):
        flow_colors(flow, radius=0)


def test_the_legend_shows_the_direction_at_its_place():
    wheel = flow_wheel(101)
    assert wheel.shape == (101, 101, 3) and (wheel[0, 0] == 255).all() and (wheel[50, 50] == 255).all()
    for y, x, color in ((50, 99, RED), (99, 50, YELLOW), (50, 1, CYAN), (1, 50, VIOLET)):
        assert np.abs(wheel[y, x].astype(int) - color).max() < 15


def test_residuals_are_gray_where_they_are_zero():
    residual = np.array([[[0, 100, -100], [255, -255, 1]]], np.int16)
    assert residual_colors(residual).tolist() == [[[128, 178, 78], [255, 0, 128]]]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "moving.mp4"
    return write(path, options=x264("bframes=2:b-adapt=0:ref=1"))


@pytest.fixture
def databases(tmp_path):
    """Folder with frames that do not move, and flow, motion and residual databases of other content."""
    folder = tmp_path / "clip"
    with FrameWriter(folder / "frames.db", levels=0) as writer:
        for _ in range(5):
            writer.add(encode_rgb(torch.zeros(40, 60, 3, dtype=torch.uint8), levels=0)[0], width=60)
    methods = {"flow": "dis", "motion": "motion-vectors", "residual": "residual"}
    forms = {name: FlowForm(modality=name, method=method) for name, method in methods.items()}
    for name, form in forms.items():
        with FlowWriter(folder / f"{name}.db", form) as writer:
            field = torch.zeros(3 if name == "residual" else 2, 40, 60)
            field[0] = 80.0 if name == "residual" else 5.0
            for _ in range(5):
                writer.add_field(field)
    return folder


def colors_of(path) -> set[tuple[int, ...]]:
    pixels, counts = np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(pixel) for pixel in pixels[counts > 500].tolist()}


def test_pictures_of_databases(databases, tmp_path, capsys):
    """Flow to the right is red; motion vectors to the right come from there, so that the pixels move to the left."""
    out = tmp_path / "out.png"
    expected = {"flow": RED, "motion": one(-1, 0), "residual": (168, 128, 128)}
    for name, color in expected.items():
        for words in ([str(databases), "--modality", name], [str(databases / f"{name}.db")]):
            radius = [] if name == "residual" else ["--radius", "5.1"]  # 8 bits store 5 as 5.04
            assert main(["plot", "flow", *words, *radius, "--frames", "2", "--out", str(out)]) == 0
            assert capsys.readouterr().out == f"{out}\n"
            found = colors_of(out)
            assert any(np.abs(np.subtract(each, color)).max() < 6 for each in found), (name, found)
    assert main(["plot", "flow", str(databases), "--out", str(out)]) == 0
    (databases / "frames.db").unlink()
    assert main(["plot", "flow", str(databases), "--out", str(out)]) == 0


def test_a_video_of_a_data_set(tmp_path, capsys):
    data, out = shapes_dataset(tmp_path, videos=2, frames=4), tmp_path / "out.png"
    assert main(["extract-flow", str(data), "--method", "motion-vectors", "--workers", "1"]) == 0
    assert main(["plot", "flow", str(data), "--frames", "1", "--out", str(out)]) == 0 and out.is_file()
    out.unlink()
    assert main(["plot", "flow", str(data), "--video", "move_right_0000", "--frames", "1", "--out", str(out)]) == 0
    assert out.is_file()
    assert main(["plot", "flow", str(data), "--video", "move"]) == 2
    assert "unknown video 'move'; the first one is 'move_left_0000'" in capsys.readouterr().err


def test_picture_and_video_of_a_video_file(video, tmp_path):
    out = tmp_path / "flow.png"
    assert main(["plot", "flow", str(video), "--radius", "4", "--frames", "3", "--out", str(out)]) == 0
    color = one(3, 2, radius=4)
    assert any(np.abs(np.subtract(each, color)).max() < 6 for each in colors_of(out))
    for modality in ("motion", "residual"):
        out = tmp_path / f"{modality}.mp4"
        assert main(["plot", "flow", str(video), "--modality", modality, "--out", str(out)]) == 0
        with av.open(str(out)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 13 and frames[0].shape == (112, 288, 3)
        values = frames[5][40:70, 180:230].reshape(-1, 3)
        expected = one(3, 2, radius=np.hypot(3, 2)) if modality == "motion" else (128, 128, 128)
        assert np.abs(np.median(values, axis=0) - expected).max() < 25


@pytest.mark.parametrize(
    "words, message",
    [
        (["absent.mp4"], "absent.mp4: no such file"),
        (["VIDEO", "--modality", "flow"], "`vidseg extract-flow` computes optical flow"),
        (["VIDEO", "--frames", "0"], "frames is 0"),
        (["VIDEO", "--radius", "-1"], "radius is -1"),
        (["VIDEO", "--modality", "residual", "--radius", "3"], "residuals have no radius"),
        (["VIDEO", "--video", "x"], "--video is the name of a video of a data set"),
        (["FOLDER"], "has no flow.db or motion.db or residual.db"),
        (["VIDEO", "--out", "x.txt"], "x.txt: unsupported file extension"),
    ],
)
def test_wrong_use_is_named(video, tmp_path, capsys, words, message):
    words = [{"VIDEO": str(video), "FOLDER": str(tmp_path)}.get(word, word) for word in words]
    assert main(["plot", "flow", *words]) in (1, 2)
    assert message in capsys.readouterr().err
