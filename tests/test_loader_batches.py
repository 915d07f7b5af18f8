"""What the batches of all loaders have in common, and the forms and targets that a ClipLoader gives its batches."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from clip_data import clip_dataset
from test_loader_features import LENGTHS, feature_dataset

from vidseg import ClipLoader
from vidseg.clips.stream_windows import WindowShape
from vidseg.labels import VideoDataset
from vidseg.loaders import Batch, ClipBatch, ClipDataset, FeatureLoader, Loader, OutputForm, StreamLoader
from vidseg.loaders.output import MEAN, STD, sample_type


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> VideoDataset:
    return clip_dataset(tmp_path_factory.mktemp("batches"))


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> VideoDataset:
    return feature_dataset(tmp_path_factory.mktemp("features"))


def make(data, **options) -> ClipLoader:
    defaults = {"frames": 3, "size": 24, "batch_size": 4, "seed": 5, "dtype": "uint8"}
    return ClipLoader(data, **{**defaults, **options})


def first(data, **options) -> ClipBatch:
    with make(data, **options) as loader:  # a DALI loader keeps threads until it is closed
        return next(iter(loader))


def loaders(data, features) -> Iterator[tuple[Loader, str]]:
    yield make(data, dtype="float32"), "frames"
    yield FeatureLoader(features, batch_size=2), "features"
    labels = [np.zeros(int(count), np.int64) for count in data.frames]
    yield StreamLoader(data, WindowShape(2, 2), labels=labels, size=16, group=2), "clips"


def test_all_loaders_and_batches_satisfy_the_protocols(data, features):
    for loader, name in loaders(data, features):
        assert isinstance(loader, Loader)
        batch = next(iter(loader))
        assert isinstance(batch, Batch)
        assert batch.inputs is getattr(batch, name) and len(batch) == len(batch.inputs)
        moved = batch.to("meta")
        assert type(moved) is type(batch) and len(moved) == len(batch)
        assert moved.inputs.is_meta and moved.labels.is_meta and not batch.inputs.is_meta
        state = loader.state_dict()
        loader.load_state_dict(state)
        loader.set_epoch(state["epoch"])
        assert loader.state_dict() == state


def test_batches_are_read_like_dictionaries_and_tuples(data, features):
    for loader, name in loaders(data, features):
        batch = next(iter(loader))
        assert batch[name] is batch.inputs and batch["labels"] is batch.labels
        assert {name, "labels"} <= set(batch.keys()) and "labels" in batch and "nonsense" not in batch
        assert dict(batch)["labels"] is batch.labels and {**batch}[name] is batch.inputs
        assert [key for key, _ in batch.items()] == list(batch.keys()) and len(batch.values()) == len(batch.keys())
        assert next(iter(batch)) is batch.inputs and list(batch)[-1] is batch.labels
        with pytest.raises(KeyError, match="'nonsense' is not a field"):
            batch["nonsense"]
        with pytest.raises(TypeError, match="indexed by field name"):
            batch[0]
    for frames, labels in make(data):
        assert frames.shape == (4, 3, 3, 24, 24) and labels.shape == (4,)
    for features_, mask, labels in FeatureLoader(features, batch_size=2):
        assert features_.shape[::2] == mask.shape == labels.shape


def test_the_number_of_frames_of_a_feature_batch(features):
    (batch,) = FeatureLoader(features, batch_size=len(LENGTHS), train=False)
    assert batch.num_frames.tolist() == list(LENGTHS) and not hasattr(batch, "frames")


def test_a_folder_is_opened(data):
    expected = [batch.frames for batch in make(data.subset(range(len(data))))]
    for folder in (data.root, str(data.root)):
        loader = make(folder, train=False, seed=5)
        assert len(loader.data) == len(data) and len(list(loader)) == len(expected)
        assert len(ClipDataset(folder, frames=2, size=16)) == len(data)
    with pytest.raises(FileNotFoundError, match="absent"):
        make(data.root / "absent")
    with pytest.raises(TypeError, match="data is a list; pass a folder"):
        make([data])


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
def test_types_by_name(data, dtype):
    assert sample_type(dtype) is getattr(torch, dtype)
    one, other = first(data, dtype=dtype), first(data, dtype=getattr(torch, dtype))
    assert one.frames.dtype is getattr(torch, dtype) and torch.equal(one.frames, other.frames)
    assert ClipDataset(data, frames=2, size=16, dtype=dtype)[0]["frames"].dtype is getattr(torch, dtype)


@pytest.mark.parametrize("backend", ["native", "dali"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("frames", [1, 3])
def test_layouts_are_one_another_transposed(data, backend, dtype, frames):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    layouts = {
        layout: first(data, dtype=dtype, frames=frames, layout=layout, backend=backend, color="bgr").frames
        for layout in ("bcthw", "btchw", "bthwc")
    }
    assert layouts["btchw"].shape == (4, frames, 3, 24, 24) and layouts["btchw"].is_contiguous()
    assert torch.equal(layouts["btchw"].transpose(1, 2), layouts["bcthw"])
    assert torch.equal(layouts["bthwc"].permute(0, 4, 1, 2, 3), layouts["bcthw"])
    assert ClipDataset(data, frames=frames, size=16, layout="btchw")[0]["frames"].shape == (frames, 3, 16, 16)


@pytest.mark.parametrize("backend", ["native", "dali"])
@pytest.mark.parametrize("options", [{"mean": None}, {"std": None}, {"mean": None, "std": None}])
def test_without_mean_floats_are_0_to_1(data, options, backend):
    if backend == "dali":
        pytest.importorskip("nvidia.dali")
    pixels = first(data, backend=backend).frames
    floats = first(data, dtype="float32", backend=backend, **options).frames
    assert torch.allclose(floats, pixels / 255, atol=1 / 255 if backend == "dali" else 1e-6)
    assert 0 <= floats.min() < floats.max() <= 1
    top = OutputForm(mean=None).from_pixels(torch.full((1, 1, 1, 1, 3), 255, dtype=torch.uint8))
    assert top.unique().tolist() == [1.0]
    form = OutputForm(**options)
    assert (form.mean, form.std) == (None, None) and form == OutputForm(mean=None)


def test_half_a_normalization_is_refused(data):
    for options in ({"mean": None, "std": (0.2, 0.2, 0.2)}, {"mean": (0.5, 0.5, 0.5), "std": None}):
        with pytest.raises(ValueError, match="give both, or None for both"):
            make(data, **options)
    with pytest.raises(ValueError, match="layout='tbchw' is not one of 'bcthw', 'btchw', 'bthwc'"):
        make(data, layout="tbchw")
    with pytest.raises(ValueError, match="dtype='float64' is not one of uint8, float16, bfloat16, float32"):
        make(data, dtype="float64")


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("layout", ["bcthw", "btchw", "bthwc"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("mean", [MEAN, None])
def test_pixels_are_normalized_as_the_plain_expression_does(dtype, layout, color, mean):
    form = OutputForm(dtype=sample_type(dtype), layout=layout, color=color, mean=mean, std=mean and STD)
    pixels = torch.randint(0, 256, (2, 3, 17, 19, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scale, offset = form.normalization.float()
    expected = pixels if dtype == "uint8" else (pixels.float() * scale + offset).to(form.dtype)
    expected = expected.flip(-1) if color == "bgr" else expected
    axes = {"bcthw": (0, 4, 1, 2, 3), "btchw": (0, 1, 4, 2, 3), "bthwc": (0, 1, 2, 3, 4)}[layout]
    got = form.from_pixels(pixels)
    assert torch.equal(got, expected.permute(axes)) and got.is_contiguous()


@pytest.mark.parametrize("layout", ["bcthw", "btchw", "bthwc"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_transforms_may_return_tensors(data, layout, dtype):
    def as_tensor(frames):
        return torch.from_numpy(frames).flip(2)

    def as_array(frames):
        return frames[:, :, ::-1]  # a view with a negative stride

    options = {"layout": layout, "dtype": dtype, "color": "bgr"}
    one = first(data, transform=as_tensor, **options).frames
    assert torch.equal(one, first(data, transform=as_array, **options).frames)
    plain = OutputForm(sample_type(dtype), layout, "bgr").from_pixels(first(data, layout="bthwc").frames.flip(3))
    assert torch.equal(one, plain)


@pytest.mark.parametrize("convert", [lambda frames: frames / 64, lambda frames: torch.from_numpy(frames).double() / 64])
def test_floats_of_a_transform_are_not_normalized(data, convert):
    pixels = first(data, layout="bthwc").frames
    batch = first(data, transform=convert, dtype="float32", color="bgr", layout="btchw")
    assert batch.frames.dtype is torch.float32 and batch.frames.is_contiguous()
    assert torch.equal(batch.frames, (pixels / 64).flip(-1).permute(0, 1, 4, 2, 3))
    item = ClipDataset(data, frames=3, size=24, seed=5, transform=convert, dtype="float16")[0]
    assert item["frames"].dtype is torch.float16 and item["frames"].max() > 1
    with pytest.raises(ValueError, match="dtype='uint8' cannot store floating point samples"):
        first(data, transform=convert)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda frames: frames.astype(np.int32), r"is int32 \(3, 24, 24, 3\), must be uint8 or floating point"),
        (lambda frames: torch.from_numpy(frames).permute(0, 3, 1, 2), "the channels come last, layout= of the loader"),
        (lambda frames: [frames], "is a list, must be a NumPy array or a torch tensor"),
        (
            lambda frames, draw: frames if draw.random() < 0.5 else frames / 255,
            "different shapes or types",
        ),
    ],
)
def test_results_of_transforms_that_fit_nothing_are_refused(data, transform, message):
    with pytest.raises(ValueError, match=message):
        list(make(data, transform=transform, dtype="float32"))


def test_targets_are_stacked_or_listed(data):
    def several(video):
        return torch.nn.functional.one_hot(torch.tensor(video.label), 3).float()

    for batch in make(data, target=several):
        assert batch.targets.dtype is torch.float32 and batch.targets.argmax(1).tolist() == batch.labels.tolist()
        frames, targets = batch
        assert frames is batch.frames and targets is batch["targets"] is batch.targets
        assert batch.to("meta").targets.is_meta
    for batch in make(data, target=lambda video: f"a video of {video.frames} frames, {video.name}"):
        assert batch.targets == [f"a video of 6 frames, {data[number].name}" for number in batch.numbers.tolist()]
        assert batch.to("meta").targets == batch.targets
    for batch in make(data, target=lambda video, clip: torch.tensor(clip.frames).float()):
        assert torch.equal(batch.targets, torch.from_numpy(batch.plan.frames).float())
    assert first(data).targets is None
    item = ClipDataset(data, frames=2, size=16, target=several)[5]
    assert item["target"].tolist() == several(data[5]).tolist()
    assert "target" not in ClipDataset(data, frames=2, size=16)[5]


def test_targets_that_do_not_fit_are_refused(data):
    with pytest.raises(ValueError, match=r"tensors of shapes \[\(1,\), \(2,\)"):
        list(make(data, target=lambda video: torch.zeros(video.label + 1), train=False))
    with pytest.raises(TypeError, match="target=3 cannot be called"):
        make(data, target=3)
    with pytest.raises(TypeError, match="takes 3 arguments"):
        make(data, target=lambda a, b, c: a)


def test_batches_are_copied_ahead_to_a_device(data, monkeypatch):
    expected = [batch.frames.clone() for batch in make(data)]
    copied = list(make(data, device="cpu"))
    assert all(torch.equal(batch.frames, frames) for batch, frames in zip(copied, expected, strict=True))
    threads = set()
    original = torch.Tensor.to

    def to(self, *arguments, **options):
        threads.add(threading.current_thread().name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    batch = first(data, device="meta", target=lambda video: torch.tensor(video.label))
    assert threads == {"vidseg-prefetch"}
    assert all(tensor.is_meta for tensor in batch.tensors.values()) and "targets" in batch.tensors
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device='cuda:1': torch finds 0 cuda devices"):
            make(data, device="cuda:1")
