"""Frame databases that hold a video stream: writing, reading, damage, conversion, loading, training."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import picture

from vidseg.cli.main import main
from vidseg.clips.planner import ClipPlanner
from vidseg.convert import ConvertOptions
from vidseg.convert.checking import check_databases
from vidseg.convert.conversion import Outcome, convert_one
from vidseg.frames import FrameDatabase, FrameDatabaseError, FrameWriter, StreamForm, StreamWriter, encode_rgb
from vidseg.frames.frame_planes import planes_of_rgb
from vidseg.frames.packet_group import pack_group, unpack_group
from vidseg.frames.schema import holds_stream
from vidseg.labels import open_dataset, scan_catalog
from vidseg.loaders import ClipDataset, ClipLoader
from vidseg.loaders.backends import make_filler
from vidseg.loaders.output import OutputForm
from vidseg.videos.listing import find_jobs

PLAIN = OutputForm(dtype=torch.uint8, layout="bthwc")


def gray(number: int) -> int:
    """Gray level of frame `number`."""
    return 20 + 7 * number % 200


def write_gray(path: Path, frames: int, *, height: int = 40, width: int = 56, form: StreamForm | None = None) -> Path:
    """Write a database whose frames have the gray level of their number."""
    with StreamWriter(path, form) as writer:
        for number in range(frames):
            pixels = torch.full((height, width, 3), gray(number), dtype=torch.uint8)
            writer.add_rgb(pixels, timestamp=number / 25)
    return path


def levels_of(frames: torch.Tensor) -> list[int]:
    return [int(level) for level in frames.float().mean(dim=(-3, -2, -1)).round()]


def pictures(count: int, *, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(index, height=height, width=width) for index in range(count)]))


def damage(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def flip_a_byte(path: Path, key_frame: int) -> None:
    connection = sqlite3.connect(path)
    (blob,) = connection.execute("SELECT packets FROM Stream WHERE key_frame = ?", (key_frame,)).fetchone()
    connection.close()
    changed = bytearray(blob)
    changed[-3] ^= 0x10
    damage(path, "UPDATE Stream SET packets = ? WHERE key_frame = ?", bytes(changed), key_frame)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("gop, frames", [(12, 30), (12, 12), (5, 11), (1, 3)])
def test_each_number_is_its_frame(tmp_path, codec, gop, frames):
    path = write_gray(tmp_path / "video/frames.db", frames, form=StreamForm(codec=codec, gop=gop))
    database = FrameDatabase(path)
    assert (database.store, len(database), database.frame_size, database.levels) == ("video", frames, (40, 56), 0)
    assert database.verify() == []
    expected = [gray(number) for number in range(frames)]
    assert np.allclose(levels_of(database.decode(range(frames))), expected, atol=1)
    numbers = [frames - 1, 0, frames // 2, frames // 2, frames - 1]
    assert np.allclose(levels_of(database.decode(numbers)), [gray(number) for number in numbers], atol=1)
    assert np.allclose(levels_of(torch.stack(list(database.stream(1, step=2)))), expected[1::2], atol=1)
    assert torch.equal(database[-1], database.decode(frames - 1))
    assert np.allclose(database.timestamps, np.arange(frames) / 25)
    assert (path.parent / "n_frames").read_text() == str(frames)
    keys = [key for (key,) in sqlite3.connect(path).execute("SELECT key_frame FROM Stream ORDER BY key_frame")]
    assert keys == list(range(1, frames + 1, gop))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("chroma", [420, 444])
@pytest.mark.parametrize("height, width", [(1, 1), (33, 97), (64, 64), (70, 131)])
def test_sizes_and_pixels(tmp_path, codec, chroma, height, width):
    frames = pictures(5, height=height, width=width) if min(height, width) > 12 else torch.full((5, 1, 1, 3), 99).byte()
    with StreamWriter(tmp_path / "video/frames.db", StreamForm(codec=codec, crf=8, chroma=chroma)) as writer:
        for frame in frames:
            writer.add_rgb(frame)
    database = FrameDatabase(tmp_path / "video")
    assert database.frame_size == (height, width)
    assert database.verify() == []
    decoded = database.decode(range(5))
    assert decoded.shape == (5, height, width, 3)
    # The square of the pictures has sharp edges of color, which 4:2:0 does not keep.
    assert (decoded.float() - frames.float()).abs().mean() < (4 if chroma == 420 else 2)
    small = database.decode([1], size=(16, 24))
    with FrameWriter(tmp_path / "jpeg/frames.db") as jpegs:
        for frame in decoded:
            jpegs.add(encode_rgb(frame, 100, chroma=444)[0], width=width)
    expected = FrameDatabase(tmp_path / "jpeg").decode([1], size=(16, 24))
    assert (small.float() - expected.float()).abs().mean() < 1.5


@pytest.mark.parametrize("weights", [(0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)])
@pytest.mark.parametrize("full_range", [False, True])
def test_matrix_and_range_are_stored(tmp_path, weights, full_range):
    colors = torch.tensor([[250, 10, 20], [20, 230, 30], [15, 40, 240], [128, 128, 128]], dtype=torch.uint8)
    frame = (
        colors[:, None, None].expand(4, 32, 32, 3).reshape(2, 2, 32, 32, 3).permute(0, 2, 1, 3, 4).reshape(64, 64, 3)
    )
    other = planes_of_rgb(frame)  # frames of another matrix and range are converted to those of the first one
    with StreamWriter(tmp_path / "video/frames.db", StreamForm(crf=4)) as writer:
        writer.add_planes(planes_of_rgb(frame, luma_weights=weights, full_range=full_range))
        writer.add_planes(other)
    database = FrameDatabase(tmp_path / "video")
    assert (database.meta["luma_red"], database.meta["luma_blue"]) == weights
    assert database.meta["full_range"] == full_range
    for decoded in database.decode([0, 1]):
        found = decoded[16::32, 16::32].reshape(4, 3).int()
        assert (found - colors.int()).abs().max() <= 4


def test_frames_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "video/frames.db"
    with pytest.raises(ValueError, match="frame 1 is 32x16 pixels, unlike those before"), StreamWriter(path) as writer:
        writer.add_rgb(torch.zeros(16, 16, 3, dtype=torch.uint8))
        writer.add_rgb(torch.zeros(16, 32, 3, dtype=torch.uint8))
    assert list((tmp_path / "video").iterdir()) == []
    with pytest.raises(FrameDatabaseError, match="no frame was added"), StreamWriter(path):
        pass
    with (
        pytest.raises(ValueError, match="libx264 cannot encode frames of 20000x4 pixels"),
        StreamWriter(path) as writer,
    ):
        writer.add_rgb(torch.zeros(4, 20000, 3, dtype=torch.uint8))


def test_jpegs_are_not_there(tmp_path):
    database = FrameDatabase(write_gray(tmp_path / "video/frames.db", 3))
    with pytest.raises(FrameDatabaseError, match="holds a video stream instead of JPEGs"):
        database.read([0])
    with pytest.raises(IndexError, match="frame 3 is outside 0 to 2"):
        database.decode([3])
    with pytest.raises(ValueError, match="level 1"):
        database.decode([0], level=1)
    database.close()
    with pytest.raises(ValueError, match="closed"):
        database.decode([0])


def test_packets_of_a_group():
    packets = [b"one", b"", b"three" * 1000]
    blob = pack_group(packets)
    assert unpack_group(blob) == packets
    for changed in (blob[:-1], blob[:3], b"", blob[:-1] + b"x", blob[:4] + b"\xff" * 4 + blob[8:]):
        with pytest.raises(ValueError, match="CRC-32"):
            unpack_group(changed)


DAMAGES = [
    ("DELETE FROM Stream WHERE key_frame = 13", "frames 12 to 23: not in the database"),
    ("UPDATE Stream SET packets = 'text' WHERE key_frame = 13", "frames 12 to 23: holds no BLOB"),
    ("UPDATE Stream SET packets = zeroblob(0) WHERE key_frame = 13", "frames 12 to 23: holds an empty BLOB"),
    (
        "UPDATE Stream SET packets = (SELECT packets FROM Stream WHERE key_frame = 25) WHERE key_frame = 13",
        "frames 12 to 23: 6 packets instead of 12",
    ),
]


@pytest.mark.parametrize("statement, reason", [*DAMAGES, (None, r"frames 12 to 23: .*\(CRC-32\)")])
def test_a_damaged_group_is_named(tmp_path, statement, reason):
    path = write_gray(tmp_path / "video/frames.db", 30)
    if statement is None:
        flip_a_byte(path, 13)
    else:
        damage(path, statement)
    database = FrameDatabase(path)
    with pytest.raises(FrameDatabaseError, match=rf"{path}: {reason}"):
        database.decode([20])
    assert np.allclose(levels_of(database.decode([11, 24])), [gray(11), gray(24)], atol=1)
    report = check_databases(path)
    assert not report.ok
    assert any(reason.split(":")[0] in problem for problem in report.databases[0].problems)
    repaired = check_databases(path, repair=True)
    assert not repaired.ok
    assert "not repaired" in str(repaired)


def test_packets_that_do_not_decode_are_named(tmp_path):
    path = write_gray(tmp_path / "video/frames.db", 15)
    connection = sqlite3.connect(path)
    (blob,) = connection.execute("SELECT packets FROM Stream WHERE key_frame = 1").fetchone()
    connection.close()
    packets = unpack_group(blob)
    packets[4] = b"\0\0\0\1\x61" + bytes(40)
    damage(path, "UPDATE Stream SET packets = ? WHERE key_frame = 1", pack_group(packets))
    database = FrameDatabase(path)
    assert np.allclose(levels_of(database.decode(range(4))), [gray(number) for number in range(4)], atol=1)
    with pytest.raises(FrameDatabaseError, match="frames 0 to 11: frame 4: "):
        database.decode([6])


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("stream_codec", "prores", "expected h264 or hevc"),
        ("gop", 0, "'gop' of its metadata is 0"),
        ("width", 10**6, "'width' of its metadata is 1000000"),
        ("chroma", 422, "expected 420 or 444"),
        ("luma_red", "red", "luma weights 'red'"),
        ("full_range", 2, "'full_range' of its metadata is 2"),
        ("width", 300, "frames 0 to 4: frame 0: .*expected 300x64"),
        ("frames", 40, "frames 0 to 11: 5 packets instead of 12"),
    ],
)
def test_hostile_metadata(tmp_path, key, value, reason):
    path = write_gray(tmp_path / "video/frames.db", 5)
    damage(path, "UPDATE meta SET value = ? WHERE key = ?", value, key)
    with pytest.raises(FrameDatabaseError, match=reason):
        FrameDatabase(path).decode([0])


def test_a_stream_that_is_a_view_is_refused(tmp_path):
    path = write_gray(tmp_path / "video/frames.db", 5)
    damage(path, "ALTER TABLE Stream RENAME TO Other")
    damage(path, "CREATE VIEW Stream AS SELECT * FROM Other")
    with pytest.raises(FrameDatabaseError, match="Stream is a view"):
        FrameDatabase(path)


def convert_here(source: Path, root: Path, **options) -> list[Outcome]:
    """Convert in this process, which does not import torch again."""
    (root / "jpg").mkdir(parents=True)
    chosen = ConvertOptions(memory_limit=None, **options)
    return [convert_one(job, root / "jpg", chosen, lambda frames: None) for job in find_jobs(source).jobs]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "videos"
    for index in range(4):
        make_video(
            folder / f"{('train', 'val')[index // 2]}/{'ab'[index % 2]}/{index}.mp4",
            frames=20 + index,
            size=(90, 120),
            options={"crf": "8"},
        )
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory, videos) -> dict[str, Path]:
    """The videos as JPEGs and as video streams."""
    root = tmp_path_factory.mktemp("converted")
    for store in ("jpeg", "video"):
        assert (
            main(["convert", str(videos), str(root / store), "--size", "75x61", "--store", store, "--workers", "2"])
            == 0
        )
    return {store: root / store for store in ("jpeg", "video")}


@pytest.fixture
def mixed(converted, tmp_path) -> Path:
    """A data set of two videos of each kind."""
    shutil.copytree(converted["jpeg"], tmp_path / "mixed")
    for name in ("a/0", "b/1"):
        shutil.copy(converted["video"] / "jpg" / name / "frames.db", tmp_path / "mixed/jpg" / name / "frames.db")
    return tmp_path / "mixed"


def test_conversion(converted, capsys):
    jpegs, streams = (open_dataset(converted[store]) for store in ("jpeg", "video"))
    assert streams.frames.tolist() == jpegs.frames.tolist() == [20, 22, 21, 23]
    assert (streams.heights.tolist(), streams.widths.tolist()) == (jpegs.heights.tolist(), jpegs.widths.tolist())
    for number in range(4):
        one, other = (FrameDatabase(data[number].path) for data in (jpegs, streams))
        assert (one.store, other.store) == ("jpeg", "video")
        assert (holds_stream(one.path), holds_stream(other.path)) == (False, True)
        assert np.array_equal(one.timestamps, other.timestamps)
        for key in ("fps", "duration", "codec", "source_sha256", "width", "height", "orientation"):
            assert one.meta[key] == other.meta[key]
        difference = one.decode(range(len(one))).float() - other.decode(range(len(one))).float()
        assert difference.abs().mean() < 4
        assert other.path.stat().st_size < one.path.stat().st_size / 3
    assert check_databases(converted["video"]).ok
    assert main(["info", str(other.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["stored as"], facts["gop"], facts["crf"]) == ("h264 video", 12, 18)


def test_a_second_run_keeps_and_other_options_are_counted(converted, videos, tmp_path, capsys):
    shutil.copytree(converted["video"], tmp_path / "data")
    again = ["convert", str(videos), str(tmp_path / "data"), "--size", "75x61", "--json", "--workers", "2"]
    assert main([*again, "--store", "video"]) == 0
    outcomes = json.loads(capsys.readouterr().out)["videos"]
    assert {(outcome["state"], outcome["other_options"]) for outcome in outcomes} == {("kept", False)}
    assert main([*again, "--store", "video", "--crf", "30"]) == 0
    assert all(outcome["other_options"] for outcome in json.loads(capsys.readouterr().out)["videos"])
    assert main([*again, "--overwrite"]) == 0
    assert not any(holds_stream(path) for path in (tmp_path / "data").rglob("frames.db"))


def test_options_of_the_other_store_are_refused():
    for options, name in (
        ({"store": "video", "quality": 75}, "quality is 75, but has no effect on --store video"),
        ({"store": "video", "levels": 0}, "levels is 0"),
        ({"crf": 20}, "crf is 20, but has no effect on --store jpeg"),
        ({"gop": 20}, "gop is 20"),
        ({"codec": "hevc"}, "codec is 'hevc'|codec is hevc"),
        ({"store": "video", "codec": "vp9"}, "must be one of"),
        ({"store": "video", "crf": 52}, "between 0 and 51"),
        ({"store": "film"}, "store is 'film'"),
    ):
        with pytest.raises(ValueError, match=name):
            ConvertOptions(**options)
    # As recorded before there was a second store: databases made then are not made with other options.
    recorded = {"size", "fps", "quality", "chroma", "restart_interval", "optimize", "levels", "reencode"}
    assert json.loads(ConvertOptions().recorded()).keys() == recorded


def test_other_sources(converted, tmp_path, capsys):
    """JPEG files, databases of JPEGs, and databases of streams become streams and JPEGs."""
    jpegs, streams = converted["jpeg"], converted["video"]
    assert main(["convert", str(jpegs), str(tmp_path / "files"), "--to", "jpeg"]) == 0
    expected = FrameDatabase(jpegs / "jpg/a/0").decode(range(20)).float()
    for source, options in (
        (tmp_path / "files", {"store": "video"}),
        (jpegs, {"store": "video"}),
        (streams, {"store": "video", "codec": "hevc"}),
        (streams, {"store": "jpeg"}),
        (streams, {"store": "video", "size": "40"}),
    ):
        target = tmp_path / f"from-{source.name}-{options['store']}-{len(options)}-{options.get('size')}"
        outcomes = convert_here(source, target, **options)
        assert [outcome.problem for outcome in outcomes] == [None] * 4
        database = FrameDatabase(target / "jpg/a/0")
        assert database.verify() == []
        assert database.store == options["store"]
        frames = database.decode(range(20), size=expected.shape[1:3]).float()
        assert (frames - expected).abs().mean() < (8 if "size" in options else 5)


def test_a_damaged_stream_as_a_source(converted, tmp_path):
    shutil.copytree(converted["video"] / "jpg", tmp_path / "damaged")
    flip_a_byte(tmp_path / "damaged/b/3/frames.db", 13)
    outcomes = convert_here(tmp_path / "damaged", tmp_path / "data")
    states = {outcome.target: (outcome.state, outcome.frames) for outcome in outcomes}
    assert states == {
        "a/0": ("converted", 20),
        "a/2": ("converted", 22),
        "b/1": ("converted", 21),
        "b/3": ("recovered", 12),
    }
    (problem,) = [outcome.problem for outcome in outcomes if outcome.problem]
    assert "frames 12 to 22" in problem


def test_export(converted, tmp_path):
    source = converted["video"] / "jpg/a/0"
    expected = FrameDatabase(source).decode(range(20)).float()
    for _ in range(2):  # the second run keeps what is there
        assert main(["convert", str(source), str(tmp_path / "files"), "--to", "jpeg"]) == 0
        assert main(["convert", str(source), str(tmp_path / "films"), "--to", "video"]) == 0
    convert_here(tmp_path / "files", tmp_path / "again", size="none")
    found = FrameDatabase(tmp_path / "again/jpg/unlabeled/0").decode(range(20)).float()
    assert (found - expected).abs().mean() < 2
    with av.open(str(tmp_path / "films/0.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_a_killed_conversion_is_resumed(tmp_path, videos):
    """Killed in the first group of the first video; nothing is half there, and the same command completes it."""
    data = tmp_path / "data"
    words = ["convert", str(videos), str(data), "--size", "75x61", "--store", "video", "--workers", "1"]
    stopped = (
        "import os, signal\n"
        "from vidseg.convert.conversion import convert_one\n"
        "from vidseg.convert import ConvertOptions\n"
        "from vidseg.videos.listing import find_jobs\n"
        "from pathlib import Path\n"
        f"job = find_jobs(Path({str(videos)!r})).jobs[0]\n"
        f"(Path({str(data)!r}) / 'jpg').mkdir(parents=True)\n"
        f"convert_one(job, Path({str(data)!r}) / 'jpg', ConvertOptions(size='75x61', store='video'),\n"
        "            lambda frames: frames == 15 and os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    result = subprocess.run([sys.executable, "-c", stopped], env={**os.environ})
    assert result.returncode == -signal.SIGKILL
    left = [path.name for path in (data / "jpg").rglob("*") if path.is_file()]
    assert len(left) == 1
    assert left[0].endswith(".tmp")
    assert main(words) == 0
    assert check_databases(data).ok
    assert len(open_dataset(data)) == 4


@pytest.mark.parametrize("geometry", [None, "center"])
def test_batches_are_those_of_jpegs_of_the_same_pixels(converted, tmp_path, geometry):
    """Crops, mirroring and scales of training; the JPEGs have quality 100 and color at full resolution."""
    convert_here(converted["video"], tmp_path / "jpegs", quality=100, chroma=444, levels=0, size="none")
    scan_catalog(tmp_path / "jpegs")
    frames = {}
    for name, root in (("video", converted["video"]), ("jpeg", tmp_path / "jpegs")):
        data = open_dataset(root)
        planner = ClipPlanner(data, frames=6, interval=(1, 3), size=(40, 48), batch_size=4, seed=1, geometry=geometry)
        frames[name], shown = make_filler("native", data, [PLAIN], threads=2, on_error="raise").fill(planner.plan(0, 0))
        assert torch.equal(shown, torch.from_numpy(planner.plan(0, 0).frames))
    difference = (frames["video"].float() - frames["jpeg"].float()).abs()
    assert difference.mean() < 1
    assert difference.max() < 24


def test_whole_frames_of_a_batch_equal_those_of_the_database(converted):
    data = open_dataset(converted["video"])
    planner = ClipPlanner(data, frames=5, size=32, batch_size=4, seed=3, train=False)
    plan = planner.plan(0, 0)
    plan = replace(plan, height=61, width=75, matrices=np.tile(np.eye(3), (4, 1, 1)))
    frames, _ = make_filler("native", data, [PLAIN], threads=1, on_error="raise").fill(plan)
    for clip in range(4):
        database = FrameDatabase(data[int(plan.videos[clip])].path)
        assert torch.equal(frames[clip], database.decode(plan.frames[clip]))


LAYOUTS = [("bcthw", torch.float32), ("btchw", torch.uint8), ("bthwc", torch.float16)]


@pytest.mark.parametrize("kind", ["video", "mixed"])
@pytest.mark.parametrize("layout, dtype", LAYOUTS)
def test_loaders_give_equal_bits_with_any_number_of_threads(converted, mixed, kind, layout, dtype):
    data = open_dataset(converted["video"] if kind == "video" else mixed)
    options = {
        "frames": 4,
        "size": 32,
        "batch_size": 3,
        "seed": 5,
        "layout": layout,
        "dtype": dtype,
        "augment": "hmdb51",
    }
    batches = {}
    for threads in (1, 4):
        with ClipLoader(data, threads=threads, **options) as loader:
            batches[threads] = [batch.frames.clone() for batch in loader]
    assert len(batches[1]) > 0
    for one, other in zip(batches[1], batches[4], strict=True):
        assert torch.equal(one, other)


def test_items_of_a_dataset_equal_those_of_a_loader(converted):
    data = open_dataset(converted["video"])
    options = {"frames": 4, "size": 32, "seed": 5}
    items = ClipDataset(data, **options)
    workers = torch.utils.data.DataLoader(items, batch_size=None, num_workers=1)
    for number, item in enumerate(workers):
        assert torch.equal(item["frames"], items[number]["frames"])


def test_damage_is_raised_or_replaced(converted, tmp_path):
    shutil.copytree(converted["video"], tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    path = Path(data[0].path)
    flip_a_byte(path, 13)
    plan = ClipPlanner(data, frames=4, size=32, batch_size=1, train=False).plan(0, 0)
    plan = replace(plan, frames=np.array([[10, 12, 15, 19]]))
    with pytest.raises(FrameDatabaseError, match=rf"{path}: frames 12 to 19: .*CRC-32.*on_error=\"replace\""):
        make_filler("native", data, [PLAIN], threads=1, on_error="raise").fill(plan)
    filler = make_filler("native", data, [PLAIN], threads=1, on_error="replace")
    frames, shown = filler.fill(plan)
    assert shown.tolist() == [[10, 11, 11, 11]]
    sound = replace(plan, frames=shown.numpy())
    assert torch.equal(filler.fill(sound)[0], frames)
    flip_a_byte(path, 1)
    with ClipLoader(data, frames=4, size=32, batch_size=2, threads=1, on_error="replace") as loader:
        batches = list(loader)
    assert sum(batch.replaced for batch in batches) == 4  # all frames of the clip of that video


def test_a_cache_is_refused(converted, mixed):
    """When the loader is made, if the first video is a stream; else when the first stream is to be read."""
    options = {"frames": 2, "size": 16, "batch_size": 4, "threads": 1, "cache_bytes": 1 << 20}
    with pytest.raises(ValueError, match="holds a video stream, which is read without a cache"):
        ClipLoader(converted["video"], **options)
    shutil.copy(converted["jpeg"] / "jpg/a/0/frames.db", mixed / "jpg/a/0/frames.db")
    with ClipLoader(mixed, **options) as loader, pytest.raises(ValueError, match=r"b/1/frames.db holds a video stream"):
        next(iter(loader))


def test_dali_is_refused(converted):
    pytest.importorskip("nvidia.dali")
    options = {"backend": "dali", "frames": 2, "size": 16, "batch_size": 2, "threads": 1}
    with (
        ClipLoader(converted["video"], **options) as loader,
        pytest.raises(ValueError, match="backend='dali' reads JPEGs; use backend='native'"),
    ):
        next(iter(loader))


def test_training_and_features(converted, tmp_path):
    small = ["--network", "srtg_r3d_18", "--network-option", "width=0.125", "--frames", "4", "--size", "32"]
    run = ["--epochs", "1", "--batch-size", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", str(converted["video"]), *small, *run]) == 0
    assert (tmp_path / "run/options.json").is_file()
    out = ["--out", str(tmp_path / "features"), "--device", "cpu"]
    assert main(["extract-features", str(converted["video"]), "--weights", str(tmp_path / "run"), *out]) == 0
    assert main(["plot", "contact", str(converted["video"]), "--out", str(tmp_path / "contact.png")]) == 0
