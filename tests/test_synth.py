"""Synthetic videos: repeatable, true to their tables, natural in size, and told apart by motion alone."""

import csv
import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vidseg.cli.main import main
from vidseg.convert.synth import ACTIONS, SynthOptions, _Scene, frame_planes, synthesize_videos, trajectory
from vidseg.videos.textured_shapes import SHAPES, shape_distance

SMALL = SynthOptions(videos=10, untrimmed=2, frames=12, width=96, height=64, seed=3)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    report = synthesize_videos(folder, SMALL, workers=2)
    assert (report.videos, report.untrimmed, report.made) == (10, 2, 12)
    return folder


def test_same_seed_same_frames(made, tmp_path):
    synthesize_videos(tmp_path / "again", SMALL, workers=1)
    other = SynthOptions(**{**SMALL.__dict__, "seed": 4})
    synthesize_videos(tmp_path / "other", other, workers=1)
    names = sorted(path.relative_to(made) for path in made.rglob("*.mp4"))
    assert len(names) == 12
    for name in names:
        assert np.array_equal(decoded(made / name), decoded(tmp_path / "again" / name)), name
    trimmed = [name for name in names if name.parts[0] == "videos"]
    assert not any(np.array_equal(decoded(made / name), decoded(tmp_path / "other" / name)) for name in trimmed)


def plain_plane(scene: _Scene, frame: int, number: int) -> np.ndarray:
    """One plane of a frame: the texture of the shape over the shifted background, pixel by pixel, in float64."""

    def bilinear(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        height, width = picture.shape
        i, j = np.floor(y).astype(int), np.floor(x).astype(int)
        a, b = y - i, x - j
        at = [[picture[(i + k) % height, (j + m) % width] for m in (0, 1)] for k in (0, 1)]
        return (1 - a) * ((1 - b) * at[0][0] + b * at[0][1]) + a * ((1 - b) * at[1][0] + b * at[1][1])

    def periodic(texture) -> np.ndarray:
        doubled = texture._doubled[number].astype(float)
        return doubled[: doubled.shape[0] // 2, : doubled.shape[1] // 2]

    scale = 1 if number == 0 else 2
    ground = periodic(scene._ground)
    height, width = ground.shape
    y, x = np.mgrid[:height, :width].astype(float)
    shift_x, shift_y = scene._drift * frame / scale
    result = bilinear(ground, x - shift_x, y - shift_y)
    r, center_x, center_y = (v[frame] * scene.height / scale for v in (scene._radius, scene._x, scene._y))
    dx = ((x - center_x + width / 2) % width - width / 2) / r
    dy = ((y - center_y + height / 2) % height - height / 2) / r
    u, v = dx * scene._cos + dy * scene._sin, dy * scene._cos - dx * scene._sin
    cover = np.clip(0.5 - shape_distance(scene._shape, u, v) * r, 0, 1)
    for offset, center in ((dx * r, center_x), (dy * r, center_y)):
        cover *= np.abs(offset + center - int(center)) < int(r) + 2.5  # tips of a large triangle are cut
    result += cover * (bilinear(periodic(scene._skin), u * 45 / scale, v * 45 / scale) - result)
    return np.clip(np.floor(result + 0.5), 16, 240 if number else 235)


def test_frames_are_those_of_the_plain_formula():
    """Also where the shape crosses a border; float32 changes few pixels, by one level."""
    shapes = set()
    for seed in range(12):
        scene = _Scene(np.random.default_rng(seed), motion_of("orbit_clockwise", 40), width=96, height=72, fps=25)
        shapes.add(scene._shape)
        for frame in (0, 13, 39):
            for number, plane in enumerate(scene.planes(frame)):
                off = np.abs(plane - plain_plane(scene, frame, number))
                assert off.max() <= 1 and (off > 0).mean() < 0.002, (seed, frame, number)
    assert shapes == set(SHAPES)


def test_tables_list_all_videos(made):
    rows = table(made / "labels.csv")
    assert sorted(f"videos/{row['label']}/{row['id']}.mp4" for row in rows) == sorted(
        path.relative_to(made).as_posix() for path in (made / "videos").rglob("*.mp4")
    )
    assert {row["label"] for row in rows} == set(ACTIONS)
    for path in (made / "videos").rglob("*.mp4"):
        assert decoded(path).shape == (12, 64, 96, 3)
    segments = table(made / "segments.csv")
    assert list(segments[0]) == ["label", "id", "time_start", "time_end", "split"]
    for path in (made / "untrimmed").iterdir():
        parts = [row for row in segments if row["id"] == path.stem]
        times = [float(row[name]) for row in parts for name in ("time_start", "time_end")]
        assert 3 <= len(parts) <= 6 and times == sorted(set(times))
        assert times[-1] < len(decoded(path)) / SMALL.fps


def test_untrimmed_videos_move_only_in_their_segments(made):
    """Between two segments nothing but the background drifts: frames differ far less than within."""
    segments = table(made / "segments.csv")
    path = made / "untrimmed/untrimmed_0000.mp4"
    frames = decoded(path).astype(np.float32)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    moving = np.zeros(len(frames), bool)
    for row in segments:
        if row["id"] == path.stem:
            moving[round(float(row["time_start"]) * 25) : round(float(row["time_end"]) * 25)] = True
    assert change[moving[1:]].mean() > 2 * change[~moving[1:]].mean()


def test_split_is_by_class():
    from vidseg.convert.synth import _plan

    plan = _plan(SynthOptions(videos=80, test_share=0.3))
    counts = {action: [v.split for v in plan if v.segments[0].action == action].count("test") for action in ACTIONS}
    assert set(counts.values()) == {3}


def test_second_call_adds_what_is_missing(made):
    victim = next((made / "videos").rglob("*.mp4"))
    frames = decoded(victim)
    victim.unlink()
    (made / "videos/shake/shake_0000.123.part").write_bytes(b"cut short")
    assert synthesize_videos(made, SMALL, workers=1).made == 1
    assert np.array_equal(decoded(victim), frames)
    assert not list(made.rglob("*.part"))
    assert synthesize_videos(made, SMALL, workers=1).made == 0


def test_foreign_files_are_not_deleted(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="files not written by vidseg synth"):
        synthesize_videos(tmp_path, SMALL, workers=1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_a_call_that_was_killed_at_its_first_file_can_be_repeated(tmp_path):
    (tmp_path / ".synth.json.tmp").write_text("{")
    synthesize_videos(tmp_path, SynthOptions(videos=1, frames=2, width=64, height=64), workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv", "synth.json", "videos"]


def test_other_options_need_overwrite(tmp_path):
    first = SynthOptions(videos=8, frames=3, width=64, height=64)
    second = SynthOptions(videos=3, frames=3, width=64, height=64)
    synthesize_videos(tmp_path, first, workers=1)
    with pytest.raises(FileExistsError, match="other options"):
        synthesize_videos(tmp_path, second, workers=1)
    synthesize_videos(tmp_path, second, workers=1, overwrite=True)
    assert len(list(tmp_path.rglob("*.mp4"))) == len(table(tmp_path / "labels.csv")) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"videos": 0},
        {"frames": 1},
        {"width": 97},
        {"height": 30},
        {"width": 64, "height": 128},
        {"test_share": 1.0},
        {"seed": -1},
    ],
)
def test_impossible_options(wrong):
    with pytest.raises(
        ValueError, match=next(iter(wrong)) if "width" not in wrong and "height" not in wrong else "frame size"
    ):
        SynthOptions(**wrong)


def test_jpeg_sizes_are_those_of_natural_video(tmp_path):
    synthesize_videos(tmp_path, SynthOptions(videos=24, frames=9), workers=2)
    sizes = []
    for path in tmp_path.rglob("*.mp4"):
        buffer = io.BytesIO()
        Image.fromarray(decoded(path)[6]).save(buffer, "JPEG", quality=90)
        sizes.append(len(buffer.getvalue()))
    assert 13_000 < np.mean(sizes) < 22_000
    assert np.percentile(sizes, 5) > 11_500 and max(sizes) < 26_000


# No frame tells the class, motion does


def motion_of(action: str, frames: int) -> np.ndarray:
    return np.tile(ACTIONS[action], (frames, 1))


@pytest.mark.parametrize("frame", [0, 20, 55])
def test_still_states_have_one_distribution(frame):
    """Position and size at any frame are uniform for every action (Kolmogorov-Smirnov, far beyond the 0.1 % level)."""
    count = 600
    for number, action in enumerate(ACTIONS):
        states = [
            [
                values[frame]
                for values in trajectory(np.random.default_rng((number, k)), motion_of(action, 56), aspect=1.33, fps=25)
            ]
            for k in range(count)
        ]
        x, y, radius = np.sort(np.array(states).T)
        uniform = (np.arange(count) + 0.5) / count
        for values in (x / 1.33, y, np.log(radius / 0.1) / np.log(3)):
            assert np.abs(values - uniform).max() < 2.5 / np.sqrt(count), action


def test_single_frames_carry_no_class_information():
    """A linear classifier of single frames, first or last, stays at chance on videos it has not seen; pairs of frames
    would not. 1/8 is chance and 0.2 five deviations above it."""
    frames, labels, early = [], [], []
    for number, action in enumerate(ACTIONS):
        for k in range(100):
            rng = np.random.default_rng((7, number, k))
            shown = list(frame_planes(rng, motion_of(action, 8), width=48, height=36, fps=25))
            early.append(shown[0][0].ravel())
            frames.append(shown[-1][0].ravel())
            labels.append(number)
    answers = np.eye(8)[labels]
    held_out = np.arange(len(labels)) % 3 == 0
    for pictures in (np.array(early, float), np.array(frames, float)):
        pictures -= pictures.mean(axis=1, keepdims=True)
        kernel = pictures @ pictures.T / pictures.var() / pictures.shape[1]
        weights = np.linalg.solve(kernel[np.ix_(~held_out, ~held_out)] + np.eye((~held_out).sum()), answers[~held_out])
        hits = (kernel[np.ix_(held_out, ~held_out)] @ weights).argmax(1) == np.array(labels)[held_out]
        assert hits.mean() < 0.2


@pytest.mark.parametrize("action", ACTIONS)
def test_motion_is_the_action(action):
    x, y, radius = trajectory(np.random.default_rng(5), motion_of(action, 100), aspect=1.33, fps=25)
    dx = (np.diff(x) + 0.665) % 1.33 - 0.665
    dy = (np.diff(y) + 0.5) % 1.0 - 0.5
    turning = dx[:-1] * dy[1:] - dy[:-1] * dx[1:]
    right, down, clockwise, pulse, shake = ACTIONS[action]
    if right or down:
        assert 0.4 * 3.9 < (dx * right + dy * down).sum() < 0.6 * 4 and np.allclose(dx * down + dy * right, 0)
    elif clockwise:
        assert (turning * clockwise > 0).all()  # y points down: a positive cross product turns clockwise
    elif shake:
        assert np.allclose(turning, 0) and (np.diff(np.sign(dx)) != 0).sum() >= 12
    assert (np.ptp(radius) > 0.15) == bool(pulse)
    assert (np.ptp(x) + np.ptp(y) > 1e-6) == (not pulse)


def test_command(tmp_path, capsys):
    arguments = ["synth", str(tmp_path / "out"), "--videos", "8", "--frames", "2", "--width", "64", "--height", "48"]
    assert main([*arguments, "--workers", "1", "--json"]) == 0
    assert '"videos": 8' in capsys.readouterr().out
    assert main(["synth", str(tmp_path / "bad"), "--videos", "0"]) == 2
    assert "videos=0 and untrimmed=0" in capsys.readouterr().err
