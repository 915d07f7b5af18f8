"""Optical flow: true flow is true, files and folders of it, losses and scores by hand, runs that learn and resume."""

import json
import multiprocessing
import signal
import struct
import zlib

import flow_runs
import numpy as np
import pytest
import torch
from flow_runs import TinyFlow, train, train_and_die, train_as_rank
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from test_distributed import free_port

import vidseg
from vidseg.cli.main import main
from vidseg.convert.synth import ACTIONS, frame_flow, frame_planes
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.event_file import read_events
from vidseg.engine.schedules import Schedule
from vidseg.engine.task import Position
from vidseg.labels import FlowFolder, FlowPair, read_flow, write_flo
from vidseg.labels.flow_files import read_picture
from vidseg.loaders import FlowAugmentation, FlowLoader, MovingShapes
from vidseg.losses import PyramidLoss, SequenceLoss, create_flow_loss
from vidseg.metrics import flow_scores
from vidseg.models._flow import warp
from vidseg.tasks.flow.recipes import RECIPES, recipe_options
from vidseg.tasks.flow.task import FlowTask
from vidseg.videos import VideoSource


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def tiny_flow():
    flow_runs.register()
    yield
    flow_runs.forget()


def shapes(count=4, **options):
    return MovingShapes(count, **{"height": 48, "width": 64, "seed": 2, **options})


def as_maps(picture) -> torch.Tensor:
    """uint8 (H, W, C) as float32 (1, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()


def warp_errors(first, second, flow, where) -> tuple[float, float]:
    """Mean difference of the first picture from the second one, warped by the flow and as it is."""
    first, second, flow = as_maps(first), as_maps(second), torch.from_numpy(np.ascontiguousarray(flow))[None]
    chosen = torch.from_numpy(where).expand_as(first)
    return tuple(float((first - other).abs()[chosen].mean()) for other in (warp(second, flow), second))


# True flow


@pytest.mark.parametrize("number", range(4))
def test_generated_flow_takes_the_second_picture_to_the_first(number):
    first, second, flow, visible = shapes(height=96, width=128).render(number)
    warped, still = warp_errors(first, second, flow, visible)
    assert 0.6 < visible.mean() < 1
    assert warped < 2 and still > 5 * warped
    hidden = warp_errors(first, second, flow, ~visible)[0]
    assert hidden > 10 * warped  # the mask holds what is hidden or outside
    # a wrong flow is seen: half a pixel, mirrored, and x and y exchanged
    for wrong in (flow + 0.5, -flow, flow[::-1]):
        assert warp_errors(first, second, wrong, visible)[0] > 1.5 * warped


def test_generated_pairs_are_functions_of_seed_epoch_number_and_split():
    same, other = shapes().pair(1, 2), [shapes().pair(1, 3), shapes().pair(2, 2), shapes(seed=3).pair(1, 2)]
    other.append(shapes(split="val").pair(1, 2))
    again = shapes().pair(1, 2)
    assert np.array_equal(same.first, again.first) and np.array_equal(same.flow, again.flow)
    assert all(not np.array_equal(same.first, pair.first) for pair in other)
    assert not np.abs(shapes(reach=0.0, shapes=(0, 0)).pair(0).flow).max() > 4  # rotation and size of the background
    assert len({shapes(reach=reach).video_path(0) for reach in (2, 3)}) == 2
    for wrong in ({"count": 0}, {"reach": -1.0}, {"shapes": (3, 2)}, {"height": 8}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shapes(**wrong)


@pytest.mark.parametrize("action", ["move_left", "orbit_clockwise", "pulse", "shake"])
def test_flow_of_synthetic_videos_follows_the_shape(action):
    motion, size = np.tile(np.array(ACTIONS[action]), (4, 1)), {"width": 128, "height": 96, "fps": 25}
    frames = [planes[0][..., None] for planes in frame_planes(np.random.default_rng(5), motion, **size)]
    flows = list(frame_flow(np.random.default_rng(5), motion, **size))
    assert len(flows) == 4 and np.array_equal(flows[2][0], flows[3][0])
    for frame, (flow, visible) in enumerate(flows[:3]):
        shape = np.abs(flow - flow[:, :1, :1]).max(axis=0) > 0.1  # what moves otherwise than the background
        assert 50 < shape.sum() < shape.size / 2
        warped, still = warp_errors(frames[frame], frames[frame + 1], flow, visible & shape)
        assert warped < 0.8 * still, (frame, warped, still)
        assert warp_errors(frames[frame], frames[frame + 1], flow, visible)[0] < 1.5


def test_synth_writes_flow(tmp_path, capsys):
    words = ["--videos", "2", "--frames", "4", "--width", "64", "--height", "64", "--workers", "1"]
    assert main(["synth", str(tmp_path), *words]) == 0
    assert not (tmp_path / "flow").exists()
    assert main(["synth", str(tmp_path), *words, "--flow"]) == 0  # adds what is missing
    files = sorted((tmp_path / "flow").rglob("*.npz"))
    assert [path.stem for path in files] == sorted(path.stem for path in (tmp_path / "videos").rglob("*.mp4"))
    with np.load(files[0]) as found:
        assert found["flow"].shape == (4, 2, 64, 64) and found["flow"].dtype == np.float16
        assert found["visible"].shape == (4, 64, 64) and found["visible"].mean() > 0.8
        left, _ = next(
            frame_flow(
                np.random.default_rng((0, 0, 0, 1)), np.tile(ACTIONS["move_left"], (4, 1)), width=64, height=64, fps=25
            )
        )
        assert np.allclose(found["flow"][0], left, atol=0.01)


# Files and folders


def flow_of(height=5, width=7, seed=0):
    return np.random.default_rng(seed).normal(0, 9, (2, height, width)).astype(np.float32)


def test_flo_files_keep_every_bit(tmp_path):
    flow = flow_of()
    write_flo(tmp_path / "a.flo", flow)
    found, known = read_flow(tmp_path / "a.flo")
    assert np.array_equal(found, flow) and known.all()
    content = (tmp_path / "a.flo").read_bytes()
    assert content[:12] == struct.pack("<fii", 202021.25, 7, 5)
    assert struct.unpack("<2f", content[12:20]) == tuple(flow[:, 0, 0])  # x, y of the first pixel
    assert struct.unpack("<2f", content[20:28]) == tuple(flow[:, 0, 1])  # of the pixel to its right
    unknown = content[:12] + struct.pack("<4f", 1e10, 0, float("nan"), 1) + content[28:]
    (tmp_path / "b.flo").write_bytes(unknown)
    found, known = read_flow(tmp_path / "b.flo")
    assert known.sum() == 33 and not known[0, :2].any() and not found[:, 0, :2].any()
    for wrong in (flow[0], np.full((2, 3, 3), np.inf), np.zeros((2, 0, 3))):
        with pytest.raises(ValueError, match=r"c\.flo"):
            write_flo(tmp_path / "c.flo", wrong)


def png(values, *, depth=16, color=2):
    """A PNG file of uint16 (H, W, 3), without filters."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def kitti(flow, known):
    values = np.concatenate([flow * 64 + 2**15, known[None]]).transpose(1, 2, 0)
    return png(np.rint(values).astype(np.uint16))


def test_kitti_files(tmp_path):
    flow, known = np.rint(flow_of() * 64) / 64, np.random.default_rng(1).random((5, 7)) > 0.5
    (tmp_path / "a.png").write_bytes(kitti(flow, known))
    found, where = read_flow(tmp_path / "a.png")
    assert np.array_equal(where, known) and np.array_equal(found, np.where(known, flow, 0))


GOOD = struct.pack("<fii", 202021.25, 2, 1) + bytes(16)
HOSTILE = {
    "empty.flo": (b"", "begins with b''"),
    "magic.flo": (b"PIEX" + GOOD[4:], "202021.25"),
    "short.flo": (GOOD[:-1], "need 16 bytes of flow, the file has 15"),
    "long.flo": (GOOD + b"x", "the file has more"),
    "negative.flo": (struct.pack("<fii", 202021.25, -2, 1) + bytes(16), "-2 x 1"),
    "zero.flo": (struct.pack("<fii", 202021.25, 0, 1), "0 x 1"),
    "huge.flo": (struct.pack("<fii", 202021.25, 99_999, 99_999), "99999 x 99999"),
    "text.png": (b"not a picture" * 9, "not a PNG file"),
    "cut.png": (kitti(flow_of(), np.ones((5, 7)))[:-40], "damaged"),
    "flipped.png": (kitti(flow_of(), np.ones((5, 7))).replace(b"IDAT", b"IDAX"), "damaged"),
    "bits.png": (png(np.zeros((4, 4, 3)), depth=8), "8 bits"),
    "large.png": (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**30, 2**30, 16, 2, 0, 0, 0),
        "1073741824",
    ),
    "other.txt": (b"", ".flo or .png"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_named(name, tmp_path):
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as raised:
        read_flow(tmp_path / name)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"P6 9 9 255\n12", b"P6 99999999 99999999 255\n", b"\x89PNG\r\n\x1a\n" + bytes(40)]
)
def test_hostile_pictures_are_named(content, tmp_path):
    (tmp_path / "a.ppm").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ppm"):
        read_picture(tmp_path / "a.ppm")


def write_pair(pair, first, second, flow):
    for path, picture in ((first, pair.first), (second, pair.second)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    flow.parent.mkdir(parents=True, exist_ok=True)
    if flow.suffix == ".flo":
        write_flo(flow, pair.flow)
    else:
        flow.write_bytes(kitti(pair.flow, pair.known))


def write_chairs(root, count=6, split=""):
    source = shapes(count)
    for number in range(count):
        stem = f"{number + 1:05d}"
        write_pair(
            source.pair(number),
            *(root / "data" / f"{stem}_{end}" for end in ("img1.ppm", "img2.ppm", "flow.flo")),
        )
    if split:
        (root / "FlyingChairs_train_val.txt").write_text("\n".join(split) + "\n")
    return source


def test_flying_chairs(tmp_path):
    source = write_chairs(tmp_path, split="112121")
    folder = FlowFolder(tmp_path)
    found, expected = folder.pair(3), source.pair(3)
    assert len(folder) == 6 and not found.sparse
    for name in ("first", "second", "flow", "known"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    train_side, held = folder.split(0.5, 0)
    assert [folder.video_path(row)[5:10] for row in range(6)] == [f"{row:05d}" for row in range(1, 7)]
    assert [held.video_path(row)[5:10] for row in range(len(held))] == ["00003", "00005"] and len(train_side) == 4
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n3\n")
    with pytest.raises(ValueError, match=r"FlyingChairs_train_val.txt:2: '3'"):
        FlowFolder(tmp_path)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match="2 lines for 6 pairs"):
        FlowFolder(tmp_path)
    (tmp_path / "FlyingChairs_train_val.txt").unlink()
    sides = FlowFolder(tmp_path).split(0.3, 0)
    assert [len(side) for side in sides] == [4, 2]
    write_flo(tmp_path / "data/00002_flow.flo", flow_of())
    with pytest.raises(ValueError, match=r"00002_flow.flo: flow of 7 x 5 pixels for pictures of 64 x 48"):
        FlowFolder(tmp_path).pair(1)
    (tmp_path / "data/00004_img2.ppm").unlink()
    with pytest.raises(FileNotFoundError, match="00004_img2"):
        FlowFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no pairs with flow"):
        (tmp_path / "empty").mkdir() or FlowFolder(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        FlowFolder(tmp_path / "missing")


def test_sintel_holds_out_whole_scenes(tmp_path):
    source = shapes(8)
    for name in ("clean", "final"):
        for scene in range(4):
            for frame in (1, 2):
                write_pair(
                    source.pair(scene * 2 + frame - 1),
                    *(tmp_path / "training" / name / f"scene{scene}/frame_{frame + step:04d}.png" for step in (0, 1)),
                    tmp_path / f"training/flow/scene{scene}/frame_{frame:04d}.flo",
                )
    assert [len(FlowFolder(tmp_path, passes=passes)) for passes in ("clean", "final", "both")] == [8, 8, 16]
    train_side, held = FlowFolder(tmp_path).split(0.25, 1)
    scenes = [{pair.group for pair in side.pairs} for side in (train_side, held)]
    assert [len(train_side), len(held)] == [12, 4] and not scenes[0] & scenes[1]
    assert np.array_equal(FlowFolder(tmp_path).pair(1).flow, source.pair(1).flow)
    (tmp_path / "training/flow/scene0/frame_x.flo").touch()
    with pytest.raises(ValueError, match=r"frame_x\.flo"):
        FlowFolder(tmp_path)


def test_kitti_pairs_are_sparse(tmp_path):
    pair = shapes().pair(0)
    known = np.random.default_rng(0).random(pair.known.shape) > 0.6
    rounded = np.where(known, np.rint(pair.flow * 64) / 64, 0).astype(np.float32)
    pair = FlowPair(pair.first, pair.second, rounded, known)
    write_pair(
        pair,
        *(tmp_path / "training/image_2" / f"000000_1{end}.png" for end in "01"),
        tmp_path / "training/flow_occ/000000_10.png",
    )
    found = FlowFolder(tmp_path).pair(0)
    assert found.sparse and np.array_equal(found.flow, rounded) and np.array_equal(found.known, known)
    with pytest.raises(ValueError, match="0 training and 1 held-out"):
        FlowFolder(tmp_path).split(0.1, 0)
    change = FlowAugmentation(32, 32, scale=(0.5, 0.5), scaled=1.0, stretch=0.0, mirror=0.0, upside_down=0.0)
    changed = change(found, seed=0, epoch=0, number=0)
    assert 0.2 < changed.known.mean() < 0.6
    vectors, originals = changed.flow[:, changed.known] / 2**0.5, rounded[:, known]  # single ones, not means of several
    whole = [{tuple(vector) for vector in np.rint(each * 64).astype(int).T} for each in (vectors, originals)]
    assert len(whole[0]) > 20 and whole[0] <= whole[1]


# Augmentation and loader


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["scaled", "mirrored", "turned", "cropped"])
def test_geometry_acts_on_flow(kind, number):
    off = {"scaled": 0.0, "mirror": 0.0, "upside_down": 0.0, "color": 0.0, "erase": 0.0}
    on = {"scaled": {"scaled": 1.0}, "mirrored": {"mirror": 1.0}, "turned": {"upside_down": 1.0}, "cropped": {}}[kind]
    first, second, flow, visible = shapes(height=96, width=128).render(number)
    given = FlowPair(first, second, flow, visible)
    change = FlowAugmentation(64, 80, **(off | on))
    found = change(given, seed=1, epoch=0, number=number)
    assert found.first.shape == (64, 80, 3) and found.flow.shape == (2, 64, 80)
    x, y = found.flow + np.mgrid[:64, :80][::-1]
    seen = found.known & (x >= 0) & (x <= 79) & (y >= 0) & (y <= 63)
    warped, still = warp_errors(found.first, found.second, found.flow, seen)
    assert warped < 2.2 and still > 3 * warped
    again = change(given, seed=1, epoch=0, number=number)
    assert np.array_equal(found.first, again.first) and np.array_equal(found.flow, again.flow)
    assert not np.array_equal(found.first, change(given, seed=1, epoch=1, number=number).first)


def test_colors_change_together_or_apart():
    pair = shapes().pair(0)
    still = FlowPair(pair.first, pair.first, pair.flow * 0, pair.known)
    off = {"scaled": 0.0, "mirror": 0.0, "upside_down": 0.0, "erase": 0.0}
    together = FlowAugmentation(32, 32, asymmetric=0.0, **off)(still, seed=0, epoch=0, number=0)
    apart = FlowAugmentation(32, 32, asymmetric=1.0, **off)(still, seed=0, epoch=0, number=0)
    assert np.array_equal(together.first, together.second) and np.array_equal(together.first, apart.first)
    assert np.abs(apart.first.astype(int) - apart.second).mean() > 3
    erased = FlowAugmentation(32, 32, asymmetric=0.0, **(off | {"erase": 1.0}))(still, seed=0, epoch=0, number=0)
    differ = (erased.first != erased.second).any(axis=2)
    assert np.array_equal(erased.first, together.first) and 9 <= differ.sum() < 300


def test_batches_do_not_depend_on_threads_and_ranks():
    def batches(**options):
        loader = FlowLoader(shapes(9), batch_size=4, seed=1, augmentation=FlowAugmentation(32, 40), **options)
        loader.set_epoch(2)
        return list(loader)

    one, other = batches(threads=1), batches(threads=4)
    ranks = [batches(threads=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert len(one) == 2 and one[0].first.shape == (4, 3, 32, 40) and one[0].first.dtype == torch.uint8
    for number, batch in enumerate(one):
        for name in ("first", "second", "flow", "known", "numbers"):
            assert torch.equal(batch[name], other[number][name])
            parts = torch.stack([ranks[0][number][name], ranks[1][number][name]], dim=1).flatten(0, 1)
            assert torch.equal(parts, batch[name])
    evaluation = FlowLoader(shapes(3), batch_size=3, train=False)
    assert torch.equal(next(iter(evaluation)).first, next(iter(evaluation)).first)  # the same pairs in each epoch
    held = list(FlowLoader(shapes(3), batch_size=2, train=False, rank=1, world_size=2))
    assert [batch.valid.tolist() for batch in held] == [[True], [False]] and not held[1].known.any()
    first, second, flow, known = held[0]
    assert torch.equal(known, held[0].known) and len(flow) == len(first) == len(second) == 1


def test_pairs_of_different_sizes_are_named():
    class Mixed:
        classes = ()

        def __len__(self):
            return 2

        def video_path(self, number):
            return f"pair {number}"

        def pair(self, number, epoch):
            return shapes(height=48 + 16 * number).pair(0)

    with pytest.raises(ValueError, match="pair 0 has 64 x 48 pixels, pair 1 64 x 64"):
        list(FlowLoader(Mixed(), batch_size=2, train=False))


# Losses and scores


def test_sequence_loss_by_hand():
    flow, known = torch.zeros(1, 2, 1, 4), torch.ones(1, 1, 4, dtype=torch.bool)
    flow[0, 0, 0] = torch.tensor([1.0, 0.0, 0.0, 500.0])  # the last one is longer than 400 pixels
    known[0, 0, 2] = False
    levels = [torch.zeros(1, 2, 1, 4), torch.full((1, 2, 1, 4), 2.0)]
    # |0 - 1| of 8 numbers; then |2 - 1| + |2 - 0| of the first pixel and 2 + 2 of the second
    assert float(SequenceLoss()(levels, flow, known)) == pytest.approx(0.8 * 1 / 8 + 7 / 8)
    assert float(SequenceLoss(gamma=0.5)(levels, flow, known)) == pytest.approx(0.5 * 1 / 8 + 7 / 8)
    for wrong in ({"gamma": 0.0}, {"max_flow": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SequenceLoss(**wrong)


def test_pyramid_loss_by_hand():
    flow, known = torch.zeros(2, 2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    flow[0, 0], flow[0, 1] = 60.0, 80.0  # 3 and 4 units: a norm of 5
    known[1, :4] = False
    flow[1, 0, :4] = 1e6  # not known
    levels = [torch.zeros(2, 2, 1, 1), torch.zeros(2, 2, 2, 2)]
    expected = (0.01 * 5 + 0.005 * 4 * 5) / 2  # of ratios 8 and 4; sums over cells, mean over pairs
    assert float(PyramidLoss()(levels, flow, known)) == pytest.approx(expected, rel=1e-4)
    # pictures of 6 x 8 that the network has resized to 8 x 8: y is stretched
    loss = PyramidLoss(weights={4: 1.0})([torch.zeros(1, 2, 2, 2)], flow[:1, :, :6], known[:1, :6])
    assert float(loss) == pytest.approx(4 * (9 + (4 * 8 / 6) ** 2) ** 0.5, rel=1e-4)
    exact = torch.zeros(1, 2, 2, 2, requires_grad=True)
    PyramidLoss()([exact], torch.zeros(1, 2, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool)).backward()
    assert exact.grad.isfinite().all()
    with pytest.raises(ValueError, match="1/2 of the picture"):
        PyramidLoss()([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)], flow[:1], known[:1])
    with pytest.raises(ValueError, match="did you mean 'raft_small'"):
        create_flow_loss("raft_smal")
    with pytest.raises(TypeError, match="no option 'gama'"):
        create_flow_loss("raft_small", gama=0.5)


def test_scores_by_hand():
    target = torch.zeros(2, 1, 5)
    target[0, 0] = torch.tensor([0.0, 0.0, 100.0, 100.0, 7.0])
    flow = target.clone()
    flow[1, 0] = torch.tensor([0.5, 4.0, 4.0, 6.0, 50.0])
    known = torch.tensor([[True, True, True, True, False]])
    found = flow_scores(flow, target, known)
    assert found.epe == pytest.approx(14.5 / 4) and found.pixels == 4
    assert found.within == pytest.approx((1 / 4, 1 / 4, 3 / 4))
    assert found.f1_all == pytest.approx(2 / 4)  # 4 px of 100 are below 5 %, 6 px are not
    assert flow_scores(flow[None], target[None], None).pixels == 5
    with pytest.raises(ValueError, match="no pixel"):
        flow_scores(flow, target, known & False)
    with pytest.raises(ValueError, match="shape"):
        flow_scores(flow, target[:, :, :4])


# Runs


@pytest.mark.parametrize("name", ["raft_small", "fastflownet", "liteflownet3"])
def test_published_networks_train(name):
    """One batch at an odd size: a finite loss, and a gradient for every parameter."""
    torch.manual_seed(0)
    options = {"iterations": 2} if name.startswith("raft") else {}
    model = vidseg.create_model(name, **options)
    batch = next(iter(FlowLoader(shapes(2, height=60, width=62), batch_size=2)))
    losses = []
    task = FlowTask()
    result = task.train_batch(model, batch, Position(0, 0, 0), lambda loss: (losses.append(loss), loss.backward()))
    assert type(task.loss) is type(create_flow_loss(name))
    missing = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert not missing and losses[0].isfinite() and result.sums.shape == (2, 3)
    assert result.sums[1].tolist() == [2 * 60 * 62, 2 * 60 * 62, 2]
    evaluated = task.evaluate(model, FlowLoader(shapes(1), batch_size=1, train=False))
    assert evaluated.pairs == 1 and evaluated.quality == -evaluated.values[-1] and model.training


@pytest.mark.slow
@pytest.mark.parametrize("at", [(0, 2), (1, 1)])
def test_killed_and_resumed_to_the_same_bits(at, tmp_path, undisturbed):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flow_runs"])
    process = context.Process(target=train_and_die, args=(tmp_path, at))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    saved = read_checkpoint(tmp_path / "tiny_last.pth")
    assert (saved["epoch"], saved["batch"]) == at
    train(tmp_path, resume=True)
    found, expected = (read_checkpoint(folder / "tiny_last.pth") for folder in (tmp_path, undisturbed))
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    assert found["best"] == expected["best"]
    events, whole = (
        [event for event in read_events(folder) if "scores" in event] for folder in (tmp_path, undisturbed)
    )
    assert len(events) == 10 and [event["done"] for event in events] == [event["done"] for event in whole]
    assert [event["scores"] for event in events] == [event["scores"] for event in whole]
    ends = [event["status"] for event in read_events(tmp_path) if event["event"] == "end"]
    assert ends == ["complete"]  # the killed process wrote none


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train(out)
    return out


def test_two_processes_equal_one(tmp_path, undisturbed):
    context, port = multiprocessing.get_context("forkserver"), free_port()
    context.set_forkserver_preload(["flow_runs"])
    ranks = [context.Process(target=train_as_rank, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    expected = read_checkpoint(undisturbed / "tiny_last.pth")
    for name, value in expected["state_dict"].items():
        assert torch.equal(found[0]["state"][name], found[1]["state"][name]), name
        assert torch.allclose(found[0]["state"][name], value, rtol=1e-4, atol=1e-6), name
    assert found[0]["values"] == found[1]["values"] and found[0]["pairs"] == 5
    assert -found[0]["values"][-1] == pytest.approx(expected["best"], rel=1e-3) or expected["best_epoch"] == 1


def test_a_run_from_the_command_line(tiny_flow, tmp_path, capsys, make_video):
    """Training, test, prediction; the network learns what its correlations show."""
    out = tmp_path / "run"
    words = ["--network", "tiny_flow", "--pairs", "64", "--held-out", "12", "--motion", "4", "--device", "cpu"]
    words += ["--tensorboard"]
    assert main(["train", "flow", "shapes", *words, "--epochs", "4", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    log = event_accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in log.Images("flow")] == [event.step for event in log.Images("clips")] == [1, 2, 3, 4]
    assert log.Images("clips")[0].encoded_image_string.startswith(b"GIF89a") and log.Images("flow")[0].width > 500
    held = MovingShapes(12, height=32, width=48, reach=4.0, seed=1, split="test")
    pairs = [held.pair(number) for number in range(12)]
    zero = np.mean([np.hypot(*pair.flow).mean() for pair in pairs])
    assert printed["task"] == "flow" and 0 < printed["scores"]["epe"] < 0.75 * zero
    assert (out / "val_results_s0001.csv").read_text().startswith("Epoch,1px,3px,5px,F1-all,Loss\n")
    test = json.loads((out / "test.json").read_text())
    assert test["pairs"] == 12 and test["scores"] == printed["scores"]
    assert main(["test", str(out), "--device", "cpu"]) == 0
    assert test["text"] in capsys.readouterr().out
    write_chairs(tmp_path / "chairs", 3)
    assert main(["test", str(out), "--device", "cpu", "--dataset", str(tmp_path / "chairs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 3 and (out / "test_chairs.json").is_file()
    assert main(["info", str(out)]) == 0 and "tiny_flow" in capsys.readouterr().out

    trained = vidseg.load_trained(out)
    found = trained.predict(pairs[0].first, pairs[0].second)
    assert found.shape == (2, 32, 48) and found.dtype == np.float32
    error = np.hypot(*(np.stack([trained.predict(one.first, one.second) - one.flow for one in pairs]).swapaxes(0, 1)))
    assert error.mean() == pytest.approx(test["scores"]["epe"], rel=1e-4)
    floating = [torch.from_numpy(one).permute(2, 0, 1) / 255 for one in (pairs[0].first, pairs[0].second)]
    assert np.allclose(trained.predict(*floating), found, atol=1e-5)
    with pytest.raises(ValueError, match="48 x 32 and 48 x 30"):
        trained.predict(pairs[0].first, pairs[0].second[:30])

    make_video(tmp_path / "clip.mp4", frames=11, size=(48, 64))
    assert main(["predict", str(tmp_path / "clip.mp4"), "--weights", str(out), "--out", str(tmp_path / "flows")]) == 0
    assert "11 frames" in capsys.readouterr().out
    files = sorted((tmp_path / "flows/clip").iterdir())
    assert [path.name for path in files] == [f"frame_{number:05d}.flo" for number in range(1, 12)]
    words = ["predict", str(tmp_path / "clip.mp4"), "--weights", str(out), "--draw", str(tmp_path / "drawn"), "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)[0]["frames"] == 11
    drawn = [timed.frame.to_ndarray(format="rgb24") for timed in VideoSource(tmp_path / "drawn/clip.mp4")]
    assert len(drawn) == 11 and drawn[0].shape == (48, 64, 3) and np.ptp(drawn[0]) > 50
    flows = trained.predict(tmp_path / "clip.mp4")
    assert np.array_equal(flows, np.stack([read_flow(path)[0] for path in files]))
    assert np.array_equal(flows[9], flows[10]) and not np.array_equal(flows[8], flows[9])
    windows = np.stack(list(trained.video_flow(tmp_path / "clip.mp4", window=3)))
    assert np.allclose(windows, flows, atol=1e-4)  # also between the last frame of a window and the next one


def test_a_run_on_a_folder(tiny_flow, tmp_path, capsys):
    write_chairs(tmp_path / "chairs", 7, split="1111122")
    words = [
        "--network",
        "tiny_flow",
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    assert main(["train", "flow", str(tmp_path / "chairs"), *words]) == 0
    record = json.loads((tmp_path / "run/options.json").read_text())
    assert record["data"]["videos"] == 5 and json.loads((tmp_path / "run/test.json").read_text())["pairs"] == 2
    more = [*words[:4], "--out", str(tmp_path / "more"), "--pretrained", str(tmp_path / "run/tiny_flow_best.pth")]
    assert main(["train", "flow", str(tmp_path / "chairs"), *more, "--device", "cpu", "--augment", "off"]) == 0
    assert "100.0% of the network" in (tmp_path / "more/train.log").read_text()  # is filled by the checkpoint
    capsys.readouterr()
    assert main(["train", "flow", str(tmp_path / "chairs"), *words, "--pairs", "9", "--overwrite"]) == 2
    assert "pairs=9 is for generated pairs" in capsys.readouterr().err
    assert main(["train", "flow", str(tmp_path / "chairs"), *words, "--dry-run"]) == 0
    assert "1 step in 1 epoch" in capsys.readouterr().out
    assert main(["train", "flow", "shapes", "--network", "mstcn"]) == 2
    assert "no published settings" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 2
    assert "optical flow" in capsys.readouterr().err


def test_recipes_are_the_published_ones():
    chairs = recipe_options("chairs", "raft_small", dataset="x")
    assert (chairs.schedule.lr, chairs.session.max_steps, chairs.data.batch_size) == (4e-4, 100_000, 10)
    assert (chairs.data.height, chairs.data.width, chairs.augmentation.scale) == (368, 496, (-0.1, 1.0))
    assert (chairs.schedule.schedule, chairs.schedule.warmup_steps, chairs.schedule.warmup_start) == (
        "linear",
        5000,
        1.6e-5,
    )
    rates = [Schedule(chairs.schedule, 100_000, "step").rate(step) for step in (0, 2500, 5000, 52_500, 100_000)]
    assert rates == pytest.approx([4e-4 / 25, 2.08e-4, 4e-4, 2e-4, 4e-4 / 250_000], rel=1e-2)
    sintel = recipe_options("sintel", "raft_basic", dataset="x", max_steps=1000)
    assert sintel.schedule.warmup_steps == 50 and sintel.loss.loss_options() == {"gamma": 0.85}
    assert recipe_options("kitti", "raft_basic", dataset="x").augmentation.flip is False
    assert recipe_options("chairs", "fastflownet").schedule.lr_steps == (300_000, 400_000, 500_000)
    assert recipe_options("shapes", "raft_small", epochs=40).schedule.warmup_epochs == 2
    with pytest.raises(ValueError, match="count steps; give max_steps"):
        recipe_options("chairs", "fastflownet", epochs=3)
    for networks in RECIPES.values():
        for network in networks:
            create_flow_loss(network)


def test_what_is_not_flow_is_refused(tiny_flow):
    with pytest.raises(ValueError, match="FlowLoader"):
        vidseg.Trainer(TinyFlow(), [1], task="flow")
    with pytest.raises(ValueError, match="no levels in training mode"):
        FlowTask().train_batch(
            TinyFlow().eval(), next(iter(FlowLoader(shapes(2), batch_size=2))), Position(0, 0, 0), None
        )
