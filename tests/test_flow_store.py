"""Databases of flow beside the frames: what is stored is what is read, and an extraction that is run again."""

import contextlib
import io
import json
import shutil
import sqlite3

import numpy as np
import pytest
import torch
from clip_data import break_row, natural
from PIL import Image
from test_baseline_jpeg import cut, dataset_of

from vidseg.cli.main import main
from vidseg.convert import TargetError, convert_videos
from vidseg.convert.checking import check_databases
from vidseg.convert.conversion_lock import lock_dataset
from vidseg.convert.flow_export import export_flow
from vidseg.frames import (
    FlowDatabase,
    FlowForm,
    FlowWriter,
    FrameDatabase,
    FrameDatabaseError,
    decode_jpeg,
    encode_channels,
    open_database,
)
from vidseg.frames.flow_form import from_bytes, to_levels
from vidseg.labels import open_dataset
from vidseg.models import create_model
from vidseg.tasks.flow.extraction import extract_flow
from vidseg.tasks.flow.extraction_methods import flow_of_frames
from vidseg.tasks.flow.extraction_options import ExtractFlowOptions
from vidseg.videos.motion_vectors import read_motion

HEIGHT, WIDTH, COUNT = 52, 75, 4


def moving(seed: int, *, channels: int = 2, scale: float = 12.0) -> torch.Tensor:
    """A smooth field with an edge, float32 (C, H, W)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / 30.0
    waves = [np.sin(x * a + b) * np.cos(y * c + a) for a, b, c in rng.uniform(0.3, 1.5, (channels, 3))]
    field = scale * np.stack(waves)
    field[:, 20:30, 40:60] += 3.0
    return torch.from_numpy(field.astype(np.float32))


def write(path, fields, **options) -> FlowDatabase:
    with FlowWriter(path, FlowForm(method="test", **options)) as writer:
        for index, field in enumerate(fields):
            writer.add_field(field, timestamp=index / 25)
    return FlowDatabase(path)


# --- the form of the rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [5.0, 20.0])
@pytest.mark.parametrize("quality", [90, 100])
def test_errors_are_small_and_long_vectors_are_clamped(tmp_path, bound, quality):
    fields = [moving(seed) for seed in range(COUNT)]
    database = write(tmp_path / "v/flow.db", fields, bound=bound, quality=quality)
    assert (database.modality, database.method, database.bound, len(database)) == ("flow", "test", bound, COUNT)
    assert database.verify() == []
    assert not (tmp_path / "v/n_frames").exists()  # that file counts the frames
    expected = torch.stack(fields).clamp(-bound, bound)
    error = (database.flow(range(COUNT)) - expected).abs()
    step = bound / 127
    assert error.mean() < {90: 0.6, 100: 0.35}[quality] * step
    assert error.max() < {90: 12.0, 100: 3.0}[quality] * step
    assert torch.equal(database.flow([2, 0]), database.flow(range(COUNT))[[2, 0]])
    assert database.flow([]).shape == (0, 2, HEIGHT, WIDTH)


def test_zero_is_exact_and_a_mirrored_value_is_exact():
    assert (to_levels(torch.zeros(2, 8, 8), 20.0) == 128).all()
    for jpeg in encode_channels(to_levels(torch.zeros(2, 40, 50), 20.0), 30, levels=3):
        assert (decode_jpeg(jpeg) == 128).all()
    values = torch.linspace(-25, 25, 100_001)
    for bound in (20.0, 7.3):
        levels = to_levels(values, bound).int()
        assert torch.equal(to_levels(-values, bound).int(), 256 - levels)
        assert (levels.min(), levels.max()) == (1, 255)


def test_other_readers_see_the_channels_unchanged(tmp_path):
    field = moving(1)
    database = write(tmp_path / "v/flow.db", [field], quality=100)
    (jpeg,) = database.read([0])
    image = Image.open(io.BytesIO(jpeg))
    assert (image.mode, image.size, image.info["adobe_transform"]) == ("RGB", (WIDTH, HEIGHT), 0)
    pixels = np.asarray(image)
    assert np.array_equal(pixels, database.decode([0])[0].numpy())
    assert (pixels[..., 2] == 128).all()
    assert np.abs(pixels[..., :2].astype(int) - to_levels(field, 20.0).permute(1, 2, 0).numpy()).max() <= 1


def test_smaller_copies_have_averaged_vectors_in_full_size_pixels(tmp_path):
    field = moving(3)
    for values in ("uint8", "float16"):
        database = write(tmp_path / values / "flow.db", [field], values=values, quality=100)
        for level in (1, 2):
            factor = 2**level
            expected = torch.nn.functional.avg_pool2d(field[None], factor, ceil_mode=True)
            error = (database.flow([0], level=level) - expected)[..., : HEIGHT // factor, : WIDTH // factor].abs()
            assert error.max() < (0.5 if values == "uint8" else 0.02)


def test_a_residual_is_stored_like_a_picture_without_conversion(tmp_path):
    residual = torch.from_numpy(natural(1, height=HEIGHT, width=WIDTH)).permute(2, 0, 1).float() * 2 - 255
    database = write(tmp_path / "v/residual.db", [residual], modality="residual", quality=100)
    assert (database.residual([0])[0] - residual).abs().mean() < 1.2
    with pytest.raises(ValueError, match="holds residuals"):
        database.flow([0])
    with pytest.raises(ValueError, match="holds flow"):
        write(tmp_path / "v/flow.db", [moving(0)]).residual([0])


def test_any_part_is_that_of_the_whole(tmp_path):
    """By the decoder of the loader; test_baseline_jpeg.py has more sizes, intervals and qualities."""
    jpegs = [encode_channels(to_levels(moving(seed), 20.0), 90)[0] for seed in range(2)]
    data = dataset_of(tmp_path, jpegs, height=HEIGHT, width=WIDTH)
    for left, top, width, height in ((0, 0, WIDTH, HEIGHT), (33, 17, 20, 30), (74, 51, 1, 1)):
        parts = cut(data, left, top, width, height, frames=2)
        for part, jpeg in zip(parts, jpegs, strict=True):
            assert torch.equal(part, decode_jpeg(jpeg)[top : top + height, left : left + width])


def test_a_jfif_marker_makes_the_channels_ycbcr(tmp_path):
    """As libjpeg decides."""
    (jpeg,) = encode_channels(to_levels(moving(5), 20.0), 90)
    both = jpeg[:2] + bytes.fromhex("ffe000104a46494600010100000100010000") + jpeg[2:]
    whole = decode_jpeg(both)
    assert not torch.equal(whole, decode_jpeg(jpeg))
    data = dataset_of(tmp_path, [both], height=HEIGHT, width=WIDTH)
    assert torch.equal(cut(data, 3, 2, 40, 30, frames=1)[0], whole[2:32, 3:43])


def test_float16_is_lossless(tmp_path):
    fields = [moving(seed, scale=60.0) for seed in range(2)]
    database = write(tmp_path / "v/flow.db", fields, values="float16")
    assert database.verify() == []
    assert torch.equal(database.flow([1, 0]), torch.stack(fields[::-1]).half().float())
    with pytest.raises(FrameDatabaseError, match=r"flow\.db: its rows are float16"):
        database.decode([0])


@pytest.mark.parametrize("row", [b"V", b"VF16", b"VF16" + bytes(6), b"VF16\2\0\64\0\113\0" + bytes(40)])
def test_damaged_float16_is_refused(tmp_path, row):
    with pytest.raises(ValueError, match="float16"):
        from_bytes(row)
    database = write(tmp_path / "v/flow.db", [moving(0)] * 2, values="float16")
    break_row(database.path, 2, row)
    with pytest.raises(FrameDatabaseError, match=r"flow\.db: frame 1: .*float16"):
        database.flow([0, 1])
    assert any(fault.startswith("frame 1: ") for fault in database.verify())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "color"}, "modality is 'color'"),
        ({"bound": 0.0}, "bound is 0.0"),
        ({"values": "float64"}, "values is 'float64'"),
        ({"quality": 101}, "quality is 101"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FlowForm(**change)


def test_fields_that_cannot_be_stored_are_refused(tmp_path):
    form = FlowForm()
    with pytest.raises(ValueError, match=r"shape \(2, H, W\), not \(3, 8, 8\)"):
        form.encode(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="not finite"):
        form.encode(torch.full((2, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="too large for float16"):
        FlowForm(values="float16").encode(torch.full((2, 8, 8), 1e5))
    with pytest.raises(ValueError, match=r"frame 1 is 8x8 pixels"), FlowWriter(tmp_path / "v/flow.db", form) as writer:
        writer.add_field(torch.zeros(2, 9, 9))
        writer.add_field(torch.zeros(2, 8, 8))
    assert list((tmp_path / "v").iterdir()) == []


def test_a_database_of_frames_is_no_database_of_flow(tmp_path):
    data = dataset_of(tmp_path, encode_channels(to_levels(moving(5), 20.0), 90), height=HEIGHT, width=WIDTH)
    assert type(open_database(data[0].path)) is FrameDatabase
    shutil.copy(data[0].path, data[0].path.with_name("flow.db"))
    with pytest.raises(FrameDatabaseError, match="vidseg extract-flow"):
        open_database(data[0].path.with_name("flow.db"))


# --- extraction --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_video):
    """Videos, their data set, and weights of a network."""
    root = tmp_path_factory.mktemp("motion")
    for index, frames in enumerate((11, 1, 4)):
        make_video(root / f"videos/c{index % 2}/{index}.mp4", frames=frames, size=(64, 80))
    assert convert_videos(root / "videos", root / "data", workers=1).ok
    torch.manual_seed(0)
    torch.save(create_model("fastflownet").state_dict(), root / "fast.pth")
    return root


def options(place, **changes) -> ExtractFlowOptions:
    return ExtractFlowOptions(**{"method": "fastflownet", "weights": str(place / "fast.pth"), **changes})


def databases(root, name="flow.db"):
    return {path.parent.name: path.read_bytes() for path in root.rglob(name)}


@pytest.fixture(scope="module")
def extracted(place):
    """The data set with flow, extracted by one worker."""
    report = extract_flow(place / "data", options(place, workers=1))
    assert report.ok
    assert {one.state for one in report.outcomes} == {"extracted"}
    return place / "data"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_each_frame_has_a_field_and_the_last_one_repeats(count):
    frames = [torch.full((2, 3, 3), float(index)) for index in range(count)]
    between = lambda window: (window[:-1] * 10 + window[1:])[..., :2].permute(0, 3, 1, 2)  # noqa: E731
    fields = [field.unique().tolist() for field in flow_of_frames(iter(frames), between, 3)]
    expected = [[10.0 * index + index + 1] for index in range(count - 1)]
    assert fields == [*expected, expected[-1] if expected else [0.0]]


def test_flow_is_that_of_the_network_on_the_stored_frames(place, extracted):
    model = create_model("fastflownet").eval()
    model.load_state_dict(torch.load(place / "fast.pth", weights_only=True))
    for video in open_dataset(extracted):
        database, frames = FlowDatabase(video.path.parent), FrameDatabase(video.path)
        assert len(database) == len(frames) == video.frames
        assert database.frame_size == frames.frame_size
        assert np.array_equal(database.timestamps, frames.timestamps)
        pictures = frames.decode(range(len(frames))).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            expected = [model(pictures[i : i + 1], pictures[i + 1 : i + 2]).flow[0] for i in range(len(frames) - 1)]
        expected = expected or [torch.zeros(2, *frames.frame_size)]
        expected = torch.stack([*expected, expected[-1]][: len(frames)]).clamp(-20, 20)
        found = database.flow(range(len(frames)))
        assert (found - expected).abs().mean() < 0.15
        assert torch.equal(found[-1], found[-2]) if len(frames) > 1 else not found.any()


def test_two_workers_give_the_same_bytes_and_a_second_run_keeps_them(place, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "data")
    path = next((tmp_path / "data").rglob("flow.db"))
    for other in (tmp_path / "data").rglob("flow.db"):
        if other != path:
            other.unlink()
    report = extract_flow(tmp_path / "data", options(place, workers=2, batch_size=8))
    assert sorted(one.state for one in report.outcomes) == ["extracted", "extracted", "kept"]
    assert databases(tmp_path / "data") == databases(extracted)


def test_other_options_are_refused_and_named(place, extracted):
    before = databases(extracted)
    for changes, difference in (
        ({"bound": 10.0}, "bound 20.0 instead of 10.0"),
        ({"values": "float16"}, "values uint8 instead of float16"),
        ({"method": "dis", "weights": None}, "method fastflownet instead of dis"),
    ):
        if changes.get("method") == "dis":
            pytest.importorskip("cv2")
            pytest.importorskip("vidseg.videos.classical_flow")
        report = extract_flow(extracted, options(place, **changes))
        assert not report.ok
        assert {one.state for one in report.outcomes} == {"failed"}
        assert all(difference in one.problem and "--overwrite" in one.problem for one in report.outcomes)
        assert difference in str(report)
    assert databases(extracted) == before


def test_flow_of_other_frames_is_extracted_again(place, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "data")
    assert convert_videos(place / "videos", tmp_path / "data", workers=1, quality=70, overwrite=True).ok
    faults = [check.problems for check in check_databases(tmp_path / "data").databases if check.problems]
    assert len(faults) == 3 and all("made from other frames" in problem for (problem,) in faults)
    (tmp_path / "data/jpg/c1/1/frames.db").write_bytes(b"no database")
    report = extract_flow(tmp_path / "data", options(place, workers=1))
    states = {one.target: one.state for one in report.outcomes}
    assert states == {"c0/0": "extracted", "c0/2": "extracted", "c1/1": "failed"}
    assert "c1/1/frames.db: not a frame database" in str(report)


def test_codec_motion_is_read_from_the_source_videos(place, capsys):
    data, videos = place / "data", place / "videos"
    assert main(["extract-flow", str(data), "--method", "motion-vectors", "--workers", "1"]) == 0
    assert "3 extracted" in capsys.readouterr().out
    for target in ("c0/0", "c1/1", "c0/2"):
        database = FlowDatabase(data / "jpg" / target / "motion.db")
        motion = np.stack([one.field for one in read_motion(videos / f"{target}.mp4")])
        assert database.meta["modality"] == "motion"
        assert np.abs(database.flow(range(len(database))).numpy() - motion.clip(-20, 20)).mean() < 0.1
    videos.rename(place / "moved")
    try:
        words = ["extract-flow", str(data), "--method", "residual", "--workers", "1"]
        assert main(words) == 1
        assert "3 failed" in (printed := capsys.readouterr().out) and "--videos" in printed
        assert main([*words, "--videos", str(place / "moved"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["frames"], report["counts"]) == (16, {"extracted": 3})
    finally:
        (place / "moved").rename(videos)
    residual = FlowDatabase(data / "jpg/c0/0/residual.db").residual([0, 5])
    assert not residual[0].any()
    assert residual[1].any()
    assert check_databases(data).ok
    assert main(["info", str(data / "jpg/c0/0/motion.db")]) == 0
    assert "motion-vectors" in capsys.readouterr().out


def test_videos_that_are_not_converted(place, tmp_path, capsys):
    shutil.copytree(place / "videos", tmp_path / "videos")
    (tmp_path / "videos/c0/broken.mp4").write_bytes(bytes(1000))
    words = ["extract-flow", str(tmp_path / "videos"), "--method", "motion-vectors", "--size", "32", "--workers", "2"]
    assert main(words) == 2
    assert "--out" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "flow")]) == 1
    printed = capsys.readouterr().out
    assert "1 failed" in printed and "3 extracted" in printed and "c0/broken.mp4" in printed
    data = open_dataset(tmp_path / "flow")
    assert [(video.name, video.frames, video.height, video.width) for video in data] == [
        ("0", 11, 32, 40),
        ("2", 4, 32, 40),
        ("1", 1, 32, 40),
    ]
    assert sorted(path.name for path in (tmp_path / "flow/jpg").rglob("*.*")) == ["motion.db"] * 3


def test_what_cannot_run_is_refused_before_any_work(place, tmp_path, capsys):
    data = str(place / "data")
    assert main(["extract-flow", data, "--method", "raft_small"]) == 2
    assert "random flow" in " ".join(capsys.readouterr().err.split()).replace("│ ", "")
    assert main(["extract-flow", data, "--method", "raft_small", "--weights", str(place / "fast.pth")]) == 2
    assert "fastflownet" in capsys.readouterr().err
    assert main(["extract-flow", data, "--method", "residual", "--device", "cuda"]) == 2
    assert "runs on the CPU" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="no such file"):
        extract_flow(tmp_path / "nothing", options(place))
    with lock_dataset(place / "data"), pytest.raises(TargetError, match="wait for it to finish"):
        extract_flow(data, options(place))


def test_check_names_damaged_rows_and_leaves_them(extracted, tmp_path):
    shutil.copytree(extracted / "jpg/c0/0", tmp_path / "v")
    with contextlib.closing(sqlite3.connect(tmp_path / "v/flow.db")) as connection, connection:
        connection.execute("UPDATE Images SET frames = substr(frames, 1, 200) WHERE rowid = 3")
    before = (tmp_path / "v/flow.db").read_bytes()
    report = check_databases(tmp_path / "v/flow.db", repair=True)
    assert not report.ok
    assert "frame 2: damaged JPEG" in str(report) and "extract-flow" in str(report)
    assert (tmp_path / "v/flow.db").read_bytes() == before


# --- export ------------------------------------------------------------------------------------------------------


def test_export_in_published_forms(extracted, tmp_path, capsys):
    video = FlowDatabase(extracted / "jpg/c0/0")
    flow = video.flow(range(len(video))).numpy()
    export_flow(extracted, tmp_path, form="jpeg")
    for axis, values in zip("xy", flow[3], strict=True):
        with Image.open(tmp_path / f"c0/0/flow_{axis}_00004.jpg") as image:
            gray = np.asarray(image.convert("L")).astype(int)
        assert np.abs(gray - np.rint(255 * (values + 20) / 40)).max() <= 4
    assert main(["convert", str(extracted), str(tmp_path), "--modality", "flow", "--to", "npy"]) == 0
    assert np.array_equal(np.load(tmp_path / "c0/0.npy"), flow)
    export_flow(extracted, tmp_path, form="flo")
    content = (tmp_path / "c0/0/flow_00004.flo").read_bytes()
    assert np.frombuffer(content[:4], "<f4") == 202021.25
    assert np.frombuffer(content[4:12], "<i4").tolist() == [80, 64]
    assert np.array_equal(np.frombuffer(content[12:], "<f4").reshape(64, 80, 2), flow[3].transpose(1, 2, 0))
    capsys.readouterr()
    for form in ("jpeg", "npy", "flo"):
        assert "0 videos" in (text := export_flow(extracted, tmp_path, form=form)) and "3 videos exported" in text
    for path in (tmp_path / "c0/0.npy", tmp_path / "c0/0/flow_00004.flo"):
        shutil.copy(extracted / "catalog.db", path)
        with pytest.raises(FileExistsError, match="--overwrite"):
            export_flow(extracted, tmp_path, form=path.suffix[1:])
    assert main(["convert", str(extracted), str(tmp_path), "--modality", "flow", "--to", "video"]) == 2
    assert "jpeg, npy, flo" in capsys.readouterr().err
