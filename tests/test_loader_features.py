"""The feature loader: what batches hold, order and draws, ranks, resuming, pooling, and files that are wrong."""

import math
import pickle

import numpy as np
import pytest
import torch

from vidseg.labels import SegmentationLabels, apply_segmentation, open_dataset
from vidseg.loaders import ChunkPooling, FeatureLoader

SIZE = 5
LENGTHS = (40, 17, 33, 64, 21, 50, 28)


def made_labels(length: int, video: int) -> np.ndarray:
    return (np.arange(length) // 7 + video) % 4


def made_features(length: int, video: int) -> np.ndarray:
    """Row 0 counts the frames, row 1 is the video's number, so that a batch tells where it comes from."""
    features = np.random.default_rng(video).standard_normal((SIZE, length)).astype(np.float32)
    features[0], features[1] = np.arange(length), video
    return features


def feature_dataset(tmp_path):
    labels = {f"v{index}": made_labels(length, index) for index, length in enumerate(LENGTHS)}
    splits = {"split1/train": [*labels][:5], "split1/test": [*labels][5:]}
    apply_segmentation(tmp_path, SegmentationLabels(["a", "b", "c", "d"], labels, splits, 15.0))
    (tmp_path / "features").mkdir()
    for index, length in enumerate(LENGTHS):
        np.save(tmp_path / f"features/v{index}.npy", made_features(length, index))
    return open_dataset(tmp_path)


@pytest.fixture
def dataset(tmp_path):
    return feature_dataset(tmp_path)


def order(loader) -> list[int]:
    return [video for batch in loader for video in batch.videos.tolist()]


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_batches_hold_the_videos_padded_and_masked(dataset):
    loader = FeatureLoader(dataset, batch_size=3, train=False)
    batches = list(loader)
    assert len(batches) == len(loader) == 3 and loader.feature_size == SIZE
    assert order(loader) == list(range(7))
    for batch in batches:
        assert batch.features.dtype == torch.float32 and batch.labels.dtype == torch.int64
        for row, video in enumerate(batch.videos.tolist()):
            length = LENGTHS[video]
            assert batch.mask[row].tolist() == [True] * length + [False] * (batch.mask.shape[1] - length)
            assert np.array_equal(batch.features[row, :, :length], made_features(length, video))
            assert not batch.features[row, :, length:].any()
            assert batch.labels[row, :length].tolist() == made_labels(length, video).tolist()
            assert set(batch.labels[row, length:].tolist()) <= {-100}
        assert batch.num_frames.tolist() == [LENGTHS[video] for video in batch.videos] and batch.steps.unique() == 1
        assert not batch.starts.any() and batch.valid.all()
    assert batches[0].features.shape == (3, SIZE, 40) and len(batches[-1]) == 1


def test_training_shuffles_by_seed_and_epoch_alone(dataset):
    loader = FeatureLoader(dataset, batch_size=2, seed=3)
    assert len(loader) == 3  # an incomplete batch is left out
    first, second = order(loader), order(loader)  # iterating again is the next epoch
    assert len(set(first)) == 6 and first != second
    loader.set_epoch(0)
    assert order(loader) == first
    assert order(FeatureLoader(dataset, batch_size=6, seed=3, threads=1)) == first
    assert order(FeatureLoader(dataset, batch_size=2, seed=4)) != first
    assert len(FeatureLoader(dataset, batch_size=20)) == 1  # unless it is the only one


@pytest.mark.parametrize("options", [{"sample_rate": 4, "random_offset": True}, {"pooling": ChunkPooling(4, 12)}])
def test_a_sample_does_not_depend_on_its_batch(dataset, options):
    def samples(**others):
        loader = FeatureLoader(dataset, seed=1, **options, **others)
        loader.set_epoch(5)
        return {
            (video, start): (frames, step, batch.features[row][:, batch.mask[row]])
            for batch in loader
            for row, (video, start, frames, step) in enumerate(
                zip(*(x.tolist() for x in (batch.videos, batch.starts, batch.num_frames, batch.steps)), strict=True)
            )
        }

    alone, together = samples(batch_size=1), samples(batch_size=7, threads=1)
    assert len(together) >= 7 and together.keys() <= alone.keys()
    for key, (frames, step, columns) in together.items():
        assert alone[key][:2] == (frames, step) and torch.equal(alone[key][2], columns)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("world_size, batch_size", [(2, 2), (3, 6), (2, 4), (3, 3), (2, 8)])
def test_ranks_divide_an_epoch(dataset, train, world_size, batch_size):
    ranks = [
        FeatureLoader(dataset, batch_size=batch_size, train=train, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(loader) for loader in ranks}) == 1
    batches = [list(loader) for loader in ranks]
    assert {len(found) for found in batches} == {len(ranks[0])}
    for together in zip(*batches, strict=True):
        assert len({len(batch) for batch in together}) == 1
    if batch_size < 7:
        alone = FeatureLoader(dataset, batch_size=batch_size, train=train)
        assert [sorted(batch.videos.tolist()) for batch in alone] == [
            sorted(video for batch in together for video in batch.videos[batch.valid].tolist())
            for together in zip(*batches, strict=True)
        ]
    seen = [video for found in batches for batch in found for video in batch.videos[batch.valid].tolist()]
    assert len(seen) == len(set(seen))
    if not train:
        assert sorted(seen) == list(range(7))  # each once, whatever pads the last batch
    for found in batches:
        for batch in found:
            assert not batch.mask[~batch.valid].any() and (batch.labels[~batch.valid] == -100).all()


@pytest.mark.parametrize("given", [0, 1, 2, 3])
def test_resumes_where_it_was(dataset, given):
    def loader():
        return FeatureLoader(dataset, batch_size=2, seed=7, pooling=ChunkPooling(2, 100))

    whole = loader()
    expected = [batch for _ in range(2) for batch in whole]  # two epochs
    first = loader()
    iterator = iter(first)
    taken = [next(iterator) for _ in range(given)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    iterator.close()
    second = loader()
    second.load_state_dict(state)
    second.set_epoch(state["epoch"])  # what a training loop does at the start of an epoch
    for _ in range(2):  # the rest of the epoch, which may be nothing, and the next one
        taken += list(second)
    assert len(taken) == len(expected)
    assert all(same(a, b) for a, b in zip(taken, expected, strict=True))


def test_iterating_anew_begins_anew(dataset):
    loader = FeatureLoader(dataset, batch_size=2)
    first = next(iter(loader))
    assert same(next(iter(loader)), first)
    assert loader.state_dict()["batch"] == 1
    for wrong in ({"seed": 1}, {"batch_size": 3}):
        other = FeatureLoader(dataset, **{"batch_size": 2, **wrong})
        with pytest.raises(ValueError, match=f"the state has {next(iter(wrong))}"):
            other.load_state_dict(loader.state_dict())


def test_sample_rate_and_offsets(dataset):
    batch = next(iter(FeatureLoader(dataset, train=False, sample_rate=4)))
    assert batch.features[0, 0].tolist() == list(range(0, 40, 4)) and batch.steps.tolist() == [4]
    assert batch.labels[0].tolist() == made_labels(40, 0)[::4].tolist() and batch.num_frames.tolist() == [40]
    loader = FeatureLoader(dataset, sample_rate=4, random_offset=True)
    starts = set()
    for _ in range(8):
        for batch in loader:
            start, video = batch.starts.item(), batch.videos.item()
            assert batch.features[0, 0].tolist() == list(range(start, LENGTHS[video], 4))
            assert batch.labels[0].tolist() == made_labels(LENGTHS[video], video)[start::4].tolist()
            starts.add(start)
    assert starts == {0, 1, 2, 3}


def test_features_with_a_stride_and_the_other_layout(dataset, tmp_path):
    (tmp_path / "strided").mkdir()
    for index, length in enumerate(LENGTHS):
        np.save(tmp_path / f"strided/v{index}.npy", made_features(length, index)[:, ::8].T.astype(np.float16))
    loader = FeatureLoader(dataset, features="strided", layout="LD", labels_per_column=8, train=False, sample_rate=2)
    for batch, length in zip(loader, LENGTHS, strict=True):
        assert batch.features[0, 0].tolist() == list(range(0, length, 16))
        assert batch.labels[0].tolist() == made_labels(length, batch.videos.item())[::16].tolist()
        assert (batch.steps.item(), batch.num_frames.item()) == (16, length)


def test_pooling_takes_the_maximum_and_the_majority(dataset):
    pooling = ChunkPooling(4, 100)
    for batch, length in zip(FeatureLoader(dataset, train=False, pooling=pooling), LENGTHS, strict=True):
        video = batch.videos.item()
        features, labels = made_features(length, video), made_labels(length, video)
        chunks = [slice(start, start + 4) for start in range(0, length, 4)]
        assert np.array_equal(batch.features[0], np.stack([features[:, c].max(axis=1) for c in chunks], axis=1))
        assert batch.labels[0].tolist() == [int(np.bincount(labels[c]).argmax()) for c in chunks]
        assert batch.steps.item() == 4 and batch.num_frames.item() == length


def test_pooling_augments_in_training_and_cuts_long_videos(dataset):
    pooling = ChunkPooling(4, 6)  # 24 columns a piece
    loader = FeatureLoader(dataset, pooling=pooling, seed=2)
    pieces = {video: math.ceil(length / 24) for video, length in enumerate(LENGTHS)}
    assert len(loader) == sum(pieces.values())
    steps, covered = [], {video: [] for video in pieces}
    for epoch in range(12):
        for batch in loader:
            steps.append(batch.steps.item())
            assert batch.mask.shape[1] <= 6
            if epoch == 0:
                start = batch.starts.item()
                covered[batch.videos.item()] += range(start, start + batch.num_frames.item())
    assert {video: sorted(frames) for video, frames in covered.items()} == {
        video: list(range(length)) for video, length in enumerate(LENGTHS)
    }
    assert min(steps) < 4 < max(steps) <= 8 and 0.4 < np.mean(np.array(steps) == 4) < 0.8
    assert {ChunkPooling(8, 10).drawn(75, 0.1, place) for place in np.linspace(0, 0.999, 50)} == set(range(8, 17))
    assert ChunkPooling(8, 10).drawn(75, 0.9, 0.99) == 8


def replace(dataset, name, array):
    np.save(dataset.root / f"features/{name}.npy", array)


def test_nan_is_named_with_file_and_column(dataset):
    features = made_features(LENGTHS[2], 2)
    features[3, 17] = np.nan
    features[:, 20] = np.inf
    replace(dataset, "v2", features)
    with pytest.raises(ValueError, match=r"v2\.npy: nan in column 17, dimension 3 \(and in 1 other columns\)"):
        list(FeatureLoader(dataset, train=False))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((SIZE, 18)), r"v1\.npy: 18 columns, but the video has 17 frame labels .* length_tolerance=0"),
        (np.zeros((17, SIZE)), r"v1\.npy: 17 values .* has 5; is the layout the other one\?"),
        (np.zeros((SIZE + 1, 17)), r"v1\.npy: 6 values per column, but .*v0\.npy has 5"),
        (np.zeros((1, SIZE, 17)), r"v1\.npy: shape \(1, 5, 17\)"),
        (np.zeros((SIZE, 17), int), r"v1\.npy: shape \(5, 17\), int64; expected floating point"),
    ],
)
def test_wrong_files(dataset, array, message):
    replace(dataset, "v1", array)
    with pytest.raises(ValueError, match=message):
        FeatureLoader(dataset)


def test_lengths_may_differ_where_that_is_allowed(dataset):
    replace(dataset, "v0", made_features(42, 0))
    replace(dataset, "v1", made_features(15, 1))
    loader = FeatureLoader(dataset, train=False, length_tolerance=2)
    batches = list(loader)
    assert [batch.mask.shape[1] for batch in batches[:2]] == [40, 15]
    assert [batch.num_frames.item() for batch in batches[:2]] == [40, 15]
    with pytest.raises(ValueError, match="2 is above length_tolerance=1"):
        FeatureLoader(dataset, length_tolerance=1)


def test_missing_and_unreadable_files(dataset):
    (dataset.root / "features/v1.npy").write_bytes(b"not numpy")
    with pytest.raises(ValueError, match=r"v1\.npy: not a readable \.npy file"):
        FeatureLoader(dataset)
    (dataset.root / "features/v1.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"v1\.npy is missing; extract the features"):
        FeatureLoader(dataset)
    with pytest.raises(FileNotFoundError, match="i3d: no such folder"):
        FeatureLoader(dataset, features="i3d")


def test_videos_shorter_than_the_model_needs(dataset):
    with pytest.raises(ValueError, match=r"v1\.npy: 5 columns at a step of 4, but the model needs 6"):
        FeatureLoader(dataset, pooling=ChunkPooling(4, 100), min_length=6)
    assert len(FeatureLoader(dataset, train=False, min_length=17)) == 7


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"rank": 2, "world_size": 2, "batch_size": 2}, "rank=2 of world_size=2"),
        ({"layout": "LC"}, "layout='LC'"),
        ({"sample_rate": 2, "pooling": ChunkPooling(2, 2)}, "sample_rate=2 with pooling"),
        ({"world_size": 8, "batch_size": 8}, "7 samples for 8 processes"),
        ({"world_size": 2, "batch_size": 3}, "batch_size=3 is over all ranks"),
    ],
)
def test_wrong_use(dataset, options, message):
    with pytest.raises(ValueError, match=message):
        FeatureLoader(dataset, **options)
    with pytest.raises(ValueError, match="chunk=0"):
        ChunkPooling(0, 10)


def test_left_early_it_leaves_no_thread(dataset):
    import threading

    loader = FeatureLoader(dataset, threads=3)
    for _ in loader:
        break
    del _
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("features")]


def test_one_split(dataset):
    data = open_dataset(dataset.root, "split1/test")
    loader = FeatureLoader(data, train=False, batch_size=2)
    (batch,) = loader
    assert batch.videos.tolist() == [0, 1] and batch.num_frames.tolist() == list(LENGTHS[5:])
    assert batch.features[:, 1, 0].tolist() == [5, 6]
    assert [loader.labels[video].tolist() for video in (0, 1)] == [
        made_labels(length, index).tolist() for index, length in enumerate(LENGTHS[5:], start=5)
    ]


def save_npz(path, array):
    np.savez(path.with_suffix(".npz"), features=array, rate=np.float32(5))


def save_torch(path, array):
    torch.save(torch.from_numpy(array), path.with_suffix(".pt"))


def save_csv(path, array):
    lines = [",".join(f"f{number}" for number in range(array.shape[1]))]
    lines += [",".join(map(repr, row)) for row in array.tolist()]
    path.with_suffix(".csv").write_text("\n".join(lines))


def save_pickle(path, array):
    path.with_suffix(".pkl").write_bytes(pickle.dumps(array))


@pytest.mark.parametrize("save", [save_npz, save_torch, save_csv, save_pickle])
def test_published_forms_of_files(dataset, save):
    expected = made_features(LENGTHS[0], 0).astype(np.float32)
    path = dataset.root / "features/v0.npy"
    path.unlink()
    save(path, expected)
    batch = next(iter(FeatureLoader(dataset, train=False)))
    np.testing.assert_array_equal(batch.features[0], expected)


def test_files_of_several_folders_are_concatenated(dataset):
    (dataset.root / "flow").mkdir()
    for number, length in enumerate(LENGTHS):
        np.save(dataset.root / f"flow/v_v{number}.npy", np.full((2, length), number, np.float32))
    loader = FeatureLoader(dataset, train=False, features=("features", "flow"))
    assert loader.feature_size == SIZE + 2
    batch = next(iter(loader))
    np.testing.assert_array_equal(batch.features[0, :SIZE], made_features(LENGTHS[0], 0).astype(np.float32))
    assert (batch.features[0, SIZE:] == 0).all()


def test_a_pickled_function_is_not_called(dataset, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = dataset.root / "features/v0.npy"
    path.unlink()
    path.with_suffix(".pkl").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match=r"v0\.pkl: not a readable .*not an array; save the features as \.npy"):
        FeatureLoader(dataset)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".csv", ".pkl"])
def test_damaged_files_are_named(dataset, suffix):
    path = dataset.root / "features/v1.npy"
    path.unlink()
    path.with_suffix(suffix).write_bytes(b"\x80\x04 damaged")
    with pytest.raises(ValueError, match=rf"v1\{suffix}: not a readable"):
        FeatureLoader(dataset)


def test_two_files_of_a_video_are_refused(dataset):
    save_npz(dataset.root / "features/v0.npy", made_features(LENGTHS[0], 0))
    with pytest.raises(ValueError, match=r"v0 has the files v0\.npy, v0\.npz; keep one"):
        FeatureLoader(dataset)
