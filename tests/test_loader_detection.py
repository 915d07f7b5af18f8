"""The loader of features with segments: positions and times, windows, pieces, resizing, ranks, wrong data."""

import numpy as np
import pytest
import torch
from detection_data import CLASSES, FPS, SIZE, add_videos, detection_dataset

from vidseg.frames import FrameWriter, encode_rgb
from vidseg.labels import open_dataset
from vidseg.loaders import DetectionLoader, SnippetFrames

SECONDS = {"a": 20.0, "b": 10.0, "c": 12.0}
SEGMENTS = {"a": [(2.0, 6.0, 0), (11.0, 15.0, 2)], "b": [(1.0, 4.5, 1)], "c": []}
RATE = 5  # columns a second


@pytest.fixture
def data(tmp_path):
    """Features whose row 0 is the time of a column's center, row 1 the video."""
    add_videos(tmp_path, {name: (SECONDS[name], "train", SEGMENTS[name]) for name in SECONDS})
    (tmp_path / "features").mkdir()
    for number, (name, seconds) in enumerate(SECONDS.items()):
        columns = round(seconds * RATE)
        features = np.zeros((SIZE, columns), np.float32)
        features[0], features[1] = (np.arange(columns) + 0.5) / RATE, number
        np.save(tmp_path / f"features/{name}.npy", features)
    return open_dataset(tmp_path)


def found_segments(batch, row: int) -> list[tuple[float, float, int]]:
    """Segments of a sample in seconds."""
    times = batch.offsets[row] + batch.segments[row].double() * batch.scales[row]
    return [
        (round(float(start), 3), round(float(stop), 3), int(label))
        for (start, stop), label in zip(times, batch.labels[row], strict=True)
        if label >= 0
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"fit": "resize", "length": 32}, {"fit": "interpolate", "length": 40}, {"fit": "resize", "length": 300}],
)
def test_columns_and_segments_have_the_times_of_the_catalog(data, options):
    batch = next(iter(DetectionLoader(data, batch_size=3, train=False, **options)))
    for row, name in enumerate(SECONDS):
        assert found_segments(batch, row) == SEGMENTS[name]
        length = int(batch.mask[row].sum())
        centers = batch.offsets[row] + (torch.arange(length) + 0.5) * batch.scales[row]
        inside = slice(length // 10 + 1, -length // 10 - 1)  # resizing repeats the ends
        apart = (batch.inputs[row, 0, :length] - centers).abs()[inside]
        assert apart.max() < 0.6 * float(batch.scales[row])
        assert (batch.inputs[row, 1, :length] == row).all() and not batch.inputs[row, :, length:].any()
    assert (batch.labels[2] == -1).all()


def test_stride_and_clip_of_extracted_features(data):
    loader = DetectionLoader(data, train=False, stride=5, clip=16)
    batch = next(iter(loader))
    assert float(batch.scales[0]) == 5 / FPS
    assert float(batch.offsets[0]) == pytest.approx((16 - 5) / 2 / FPS)  # the clip of column 0 is centered on frame 8
    assert found_segments(batch, 0) == SEGMENTS["a"]
    other = next(iter(DetectionLoader(data, train=False, stride=6, fps=30)))
    assert float(other.scales[0]) == 0.2


def test_windows_cover_the_video_and_cut_segments(data):
    loader = DetectionLoader(data, batch_size=1, train=False, fit="window", length=40, overlap=0.5, min_inside=0.5)
    batches = [batch for batch in loader if int(batch.videos[0]) == 0]
    assert [round(float(batch.offsets[0]), 3) for batch in batches] == [0, 4, 8, 12]
    assert {tuple(batch.inputs.shape) for batch in loader} == {(1, SIZE, 40)}
    assert (
        [found_segments(batch, 0) for batch in batches]
        == [
            [(2, 6, 0)],  # 11 to 15 is outside
            [(4, 6, 0), (11, 12, 2)][:1],  # half of the first is enough, a quarter of the second is not
            [(11, 15, 2)],
            [(12, 15, 2)],
        ]
    )


def test_training_leaves_out_samples_without_a_segment(data, caplog):
    with caplog.at_level("INFO", "vidseg"):
        loader = DetectionLoader(data, batch_size=1)
    assert len(loader) == 2 and "left out 1 video without a segment" in caplog.text
    assert {int(batch.videos[0]) for batch in loader} == {0, 1}


def test_random_pieces_have_a_segment_and_are_functions_of_the_epoch(data):
    loader = DetectionLoader(data, batch_size=1, length=30, crop=0.4, min_inside=0.75, seed=3)
    seen = set()
    for epoch in range(20):
        loader.set_epoch(epoch)
        for batch in loader:
            length = int(batch.mask.sum())
            assert batch.inputs.shape[2] == length and 20 <= length <= 30 and found_segments(batch, 0)
            for start, stop, label in found_segments(batch, 0):
                first, last = next(
                    (one, other)
                    for one, other, number in SEGMENTS["ab"[int(batch.videos[0])]]
                    if number == label and one - 1e-3 <= start < other
                )
                assert 0.75 * (last - first) - 1e-3 <= stop - start <= last - first + 1e-3
            seen.add((int(batch.videos[0]), round(float(batch.offsets[0]), 3), length))
    assert len(seen) > 20
    again = DetectionLoader(data, batch_size=2, length=30, crop=0.4, min_inside=0.75, seed=3, threads=1)
    again.set_epoch(19)
    row = int((next(iter(again)).videos == batch.videos).nonzero())
    again.set_epoch(19)
    assert torch.equal(next(iter(again)).inputs[row], batch.inputs[0])


def test_a_piece_that_no_segment_fits_into_has_the_most_of_one(tmp_path):
    add_videos(tmp_path, {"long": (100.0, "train", [(10.0, 90.0, 1)])})
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/long.npy", np.zeros((SIZE, 500), np.float32))
    loader = DetectionLoader(open_dataset(tmp_path), length=50, min_inside=0.9)
    assert next(iter(loader)).inputs.shape == (1, SIZE, 50)


def test_ranks_divide_the_samples_and_resuming_continues(tmp_path):
    data = open_dataset(detection_dataset(tmp_path), "train")
    whole = [batch.numbers.tolist() for batch in DetectionLoader(data, batch_size=2, seed=5)]
    ranks = [
        [batch.numbers.tolist() for batch in DetectionLoader(data, batch_size=2, seed=5, rank=rank, world_size=2)]
        for rank in range(2)
    ]
    assert [one + two for one, two in zip(*ranks, strict=True)] == whole
    loader = DetectionLoader(data, batch_size=2, seed=5)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    iterator.close()
    later = DetectionLoader(data, batch_size=2, seed=5)
    later.load_state_dict(state)
    assert [batch.numbers.tolist() for batch in later] == whole[1:]
    sizes = [len(batch) for batch in DetectionLoader(data, batch_size=4, train=False, rank=1, world_size=2)]
    last = list(DetectionLoader(data, batch_size=4, train=False, rank=1, world_size=2))[-1]
    assert sizes == [2, 1] and last.valid.tolist() == [True]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fit": "stretch"}, "fit='stretch' is not one of"),
        ({"fit": "window"}, "needs length"),
        ({"length": 0}, "length=0 must be at least 1"),
        ({"overlap": 1.0}, r"overlap=1.0 must be in \[0, 1\)"),
        ({"clip": 16}, "clip=16 and fps=None need stride"),
        ({"stride": 0}, "stride=0, clip=None"),
        ({"stride": 50}, r"a\.npy: 100 columns of 50 frames .* end at 200.0 s, but the video has 20.0 s"),
        ({"features": "absent"}, "no such folder"),
    ],
)
def test_wrong_options(data, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DetectionLoader(data, **options)


def test_wrong_annotations_are_named(tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/x.npy", np.zeros((SIZE, 50), np.float32))
    add_videos(tmp_path, {"x": (10.0, "train", [(11.0, 12.0, 0)])})
    with pytest.raises(
        ValueError, match=f"x: the segment 11 to 12 s of {CLASSES[0]!r} is not inside the video of 10 s"
    ):
        DetectionLoader(open_dataset(tmp_path))
    add_videos(tmp_path, {"x": (0.0, "train", [])})
    with pytest.raises(ValueError, match="x has no duration"):
        DetectionLoader(open_dataset(tmp_path))


def test_without_any_segment_there_is_nothing_to_train_on(tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/x.npy", np.zeros((SIZE, 50), np.float32))
    add_videos(tmp_path, {"x": (10.0, "train", [])})
    with pytest.raises(ValueError, match="no sample has a segment"):
        DetectionLoader(open_dataset(tmp_path))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Two videos of 25 frames a second whose gray frames count up by 2: 50 and 21 frames, with one segment each."""
    root = tmp_path_factory.mktemp("pixels")
    counts = {"p": 50, "q": 21}
    add_videos(root, {name: (count / FPS, "train", [(0.4, 0.8, 1)]) for name, count in counts.items()}, size=(64, 80))
    for name, count in counts.items():
        (root / f"jpg/unlabeled/{name}").mkdir(parents=True)
        with FrameWriter(root / f"jpg/unlabeled/{name}/frames.db") as writer:
            for number in range(count):
                writer.add(encode_rgb(torch.full((64, 80, 3), 2 * number, dtype=torch.uint8))[0], width=80)
    return open_dataset(root)


def shown_frames(snippets) -> list[list[int]]:
    """Frame numbers of snippets (L, 3, T, H, W)."""
    return (snippets.double().mean(dim=(1, 3, 4)) / 2).round().long().tolist()


def test_snippets_at_a_stride_are_those_frames(pixels):
    source = SnippetFrames(pixels, frames=4, interval=2, stride=10, size=32)
    assert [source.columns(video) for video in range(2)] == [5, 2]
    expected = [[10 * number + 2 * frame for frame in range(4)] for number in range(5)]
    assert shown_frames(source.load(0, 0, 5)) == expected
    batch = next(iter(DetectionLoader(pixels, snippets=source, batch_size=2, train=False)))
    assert batch.inputs.dtype is torch.uint8 and batch.inputs.shape == (2, 5, 3, 4, 32, 32)
    assert shown_frames(batch.inputs[0]) == expected and batch.mask.sum(1).tolist() == [5, 2]
    centers = batch.offsets[0] + (torch.arange(5) + 0.5) * batch.scales[0]
    assert centers.tolist() == pytest.approx([(10 * number + 4) / FPS for number in range(5)])
    assert found_segments(batch, 0) == [(0.4, 0.8, 1)]


@pytest.mark.parametrize("places", ["centers", "ends"])
@pytest.mark.parametrize("count", [1, 4, 13])
def test_snippets_spread_over_the_video_have_the_times_of_their_frames(pixels, places, count):
    source = SnippetFrames(pixels, frames=5, count=count, places=places, size=32, train=False)
    for video, length in enumerate((50, 21)):
        starts = source.starts(video)
        offset, scale = source.time_of(video)
        centers = (offset + (np.arange(count) + 0.5) * scale) * FPS
        assert np.abs(centers - (starts + 2.5)).max() <= 0.5 + 1e-9
        if places == "ends" and count > 1:
            assert starts[0] == 0 and starts[-1] == length - 5
        expected = [[min(max(start + frame, 0), length - 1) for frame in range(5)] for start in starts.tolist()]
        assert shown_frames(source.load(video, 0, count)) == expected


def test_published_places_of_snippets(pixels):
    source = SnippetFrames(pixels, frames=16, count=8, places="ends", size=32)
    assert source.starts(0).tolist() == [round(k * (50 - 16) / 7) for k in range(8)]


def test_all_snippets_of_a_video_share_one_crop(tmp_path):
    rng = np.random.default_rng(0)
    add_videos(tmp_path, {"v": (1.0, "train", [(0.2, 0.6, 0)])}, size=(64, 96))
    (tmp_path / "jpg/unlabeled/v").mkdir(parents=True)
    still = encode_rgb(torch.from_numpy(rng.integers(0, 255, (64, 96, 3), np.uint8)))[0]
    with FrameWriter(tmp_path / "jpg/unlabeled/v/frames.db") as writer:
        for _ in range(25):
            writer.add(still, width=96)
    source = SnippetFrames(open_dataset(tmp_path), frames=4, count=3, size=32, resize=48, flip=True, seed=1)
    epochs = [source.load(0, 0, 3, epoch=epoch) for epoch in range(8)]
    for snippets in epochs:
        assert all(torch.equal(snippets[0, :, :1].expand(3, 4, 32, 32), one) for one in snippets)
    assert len({one.sum().item() for one in epochs}) > 4
    assert torch.equal(source.load(0, 1, 2, epoch=3)[0], epochs[3][1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"frames": 0}, "frames=0"),
        ({"count": 4, "stride": 2}, "give one of them"),
        ({"places": "middle"}, "places='middle'"),
        ({"resize": 16}, "resize=16 must be at least size=112"),
    ],
)
def test_wrong_snippets(pixels, options, message):
    with pytest.raises(ValueError, match=message):
        SnippetFrames(pixels, **options)


def test_snippets_need_frames(data):
    with pytest.raises(ValueError, match="jpg/unlabeled/a has no frames"):
        SnippetFrames(data)
