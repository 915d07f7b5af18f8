"""From options to data: splits, input spec, and loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vidseg.clips.augmentations import Preset, color_jitter, color_presets, draw_warps, random_erasing
from vidseg.clips.crops import CenterCrop
from vidseg.clips.cycles import CyclesFirst
from vidseg.clips.geometry import Geometry, Mirror, ResizeShort
from vidseg.clips.multigrid import Multigrid
from vidseg.clips.named_geometry import named_geometry
from vidseg.clips.rand_augment import RandAugment
from vidseg.clips.sampling import CenterClip, DenseClips, FrameSampling, RandomStart, SegmentSampling
from vidseg.clips.video_order import VideoOrder
from vidseg.engine.motion_input import modality_options
from vidseg.labels import VideoDataset, open_dataset
from vidseg.labels.list_splits import open_lists
from vidseg.labels.parts import check_disjoint
from vidseg.loaders import ClipLoader
from vidseg.models import InputSpec
from vidseg.models._input_spec import HALF
from vidseg.tasks.recognition.options import AugmentationOptions, InputOptions, MultigridOptions, RecognitionData
from vidseg.videos import open_videos

__all__ = [
    "Splits",
    "augmentation_presets",
    "choose_splits",
    "evaluation_loader",
    "fitting_batch",
    "labeled",
    "make_multigrid",
    "mirrored",
    "resolved_input",
    "spec_geometry",
    "training_loader",
]

TargetKind = Literal["class", "classes", "value"]
_HELD_OUT = 0.2
_TRAIN = ("train", "split1/train")
_TEST = ("test", "split1/test")
_LARGEST_BATCH, _FEWEST_BATCHES = 32, 10
_CROPS = {3: "three_crops", 5: "five_crops", 10: "ten_crops"}


@dataclass(frozen=True)
class Splits:
    """Videos of a run.

    Attributes:
        train: training videos.
        validation: videos that select the best epoch.
        test: videos of the test split, None where it is also what selects the epoch.
    """

    train: VideoDataset
    validation: VideoDataset
    test: VideoDataset | None


def choose_splits(options: RecognitionData, *, seed: int, target: TargetKind = "class") -> Splits:
    """Return the videos of a run, the same ones each time.

    Args:
        options: data set and splits.
        seed: seed of the part that is held out where there is no other split.
        target: what is learned; videos without it are left out.

    Raises:
        ValueError: a split does not exist or has no video, a training video is in another split too, or the number of
            classes is not `num_classes`.
    """
    if not options.dataset:
        raise ValueError("dataset: name the folder of the data set, as `vidseg convert` leaves it")
    if options.train_lists:
        return _listed_splits(options, seed=seed)
    known = open_data(options).splits

    def first(*names: str) -> str | None:
        return next((name for name in names if name in known), None)

    train_name = options.train_split or first(*_TRAIN)
    test_name = options.test_split or first(*_TEST)
    val_name = options.val_split or first("val") or test_name
    train = labeled(open_data(options, train_name), target)
    if target != "value" and options.num_classes is not None and train.num_classes != options.num_classes:
        raise ValueError(
            f"{options.dataset} has {train.num_classes} classes, {options.num_classes} are expected; for a part of the "
            f"data set use --num-classes {train.num_classes}"
        )
    if val_name is None:
        return Splits(*train.split(1 - _HELD_OUT, seed=seed), None)
    validation = labeled(open_data(options, val_name), target)
    test = None if test_name in (None, val_name) else labeled(open_data(options, test_name), target)
    if train_name is None:
        held_out = {part.video_path(row) for part in (validation, test) if part is not None for row in range(len(part))}
        train = train.subset([row for row in range(len(train)) if train.video_path(row) not in held_out])
    for part, name in ((validation, val_name), (test, test_name)):
        if part is not None and name != train_name:  # the training split itself is given on purpose
            check_disjoint(train, part, "", name=name or "test")
    return Splits(train, validation, test)


def _listed_splits(options: RecognitionData, *, seed: int) -> Splits:
    """The splits of list files; without lists of validation videos a part of each class is held out."""
    both = {"num_classes": options.num_classes}
    train = open_lists(options.dataset, options.train_lists, folder=options.train_root, **both)
    if not options.val_lists:
        return Splits(*train.split(1 - _HELD_OUT, seed=seed), None)
    count = len(train.classes)
    folder = options.val_root
    validation = open_lists(options.dataset, options.val_lists, folder=folder, num_classes=count)
    validation = validation.with_classes(validation.labels, train.classes)
    if options.val_lists != options.train_lists:  # the same lists are given on purpose
        check_disjoint(train, validation, "", name="val")
    return Splits(train, validation, None)


def open_data(options: RecognitionData, split: str | None = None) -> VideoDataset:
    """Open the data set, converted or, for the backend "video", as it is."""
    if options.backend == "video" and not (Path(options.dataset) / "catalog.db").is_file():
        return open_videos(options.dataset, split)
    return open_dataset(options.dataset, split)


def labeled(data: VideoDataset, target: TargetKind = "class") -> VideoDataset:
    """Return the videos that have a class, a set of classes, or a number.

    Raises:
        ValueError: no video has one.
    """
    if target != "class":
        values = data.values
        known = data.has_class_set if target == "classes" or values is None else ~np.isnan(values)
        if not known.any() or (target == "value" and values is None):
            column, noun = ("labels", "set of classes") if target == "classes" else ("value", "number")
            raise ValueError(
                f"{data}: no video has a {noun}; run `vidseg labels targets {data.root} FILE.csv`, a file with a "
                f"column {column!r}, or leave --target {target} out"
            )
        return data.subset(known)
    found = data.subset(data.labels >= 0)
    if len(found) == 0:
        raise ValueError(f"{data}: no video has a class; run `vidseg labels apply {data.root} LABELS.csv`")
    return found


def fitting_batch(clips: int, world_size: int = 1) -> int:
    """Return the default batch size: the power of two up to 32 that gives an epoch at least ten batches.

    At least two clips in each process, for batch norm.
    """
    size = _LARGEST_BATCH
    while size > 2 * world_size and clips < _FEWEST_BATCHES * size:
        size //= 2
    return size


def resolved_input(
    options: InputOptions | Mapping[str, Any], spec: InputSpec, *, val_geometry: str | None = None
) -> InputSpec:
    """Return the input spec of a network with what the options change.

    A size without a resize keeps the proportion of the two. The geometries "stretch" and "center" of evaluation are
    part of the spec; those of a data set are not. With another modality the statistics of colors have no meaning: flow
    and its like have a mean and a standard deviation of 0.5, unless the options say otherwise.

    Raises:
        ValueError: the order of colors of a modality without colors.
    """
    given = options if isinstance(options, Mapping) else vars(options)
    names = ("modality", "stack", "frames", "interval", "sampling", "size", "resize", "mean", "std", "color")
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    modality = chosen.get("modality", spec.modality)
    if not modality.startswith("rgb"):
        if chosen.get("color") == "bgr":
            raise ValueError(f"color='bgr' has no effect with modality={modality!r}")
        if modality != spec.modality:
            chosen = {"color": "rgb", "mean": HALF, "std": HALF} | chosen
    if "size" in chosen and "resize" not in chosen and spec.resize is not None:
        chosen["resize"] = round(chosen["size"] * spec.resize / spec.size)
    if val_geometry == "stretch":
        chosen |= {"crop": "stretch", "resize": None}
    elif val_geometry == "center":
        chosen |= {"crop": "center", "resize": round(chosen.get("size", spec.size) * 8 / 7)}
    return replace(spec, **chosen)


def make_multigrid(clips: int, batch_size: int, spec: InputSpec, options: MultigridOptions) -> Any:
    """Return the schedule of shapes of training clips; None without cycles."""
    if not (options.long_cycles or options.short_cycles):
        return None
    cycles = Multigrid(
        clips=clips,
        batch_size=batch_size,
        frames=spec.frames,
        size=spec.size,
        long_cycles=options.long_cycles,
        short_cycles=options.short_cycles,
    )
    return cycles if options.cycle_epochs is None else CyclesFirst(cycles, options.cycle_epochs)


def training_loader(
    data: VideoDataset,
    options: RecognitionData,
    spec: InputSpec,
    *,
    seed: int,
    batch_size: int,
    train_interval: tuple[int, ...] | None = None,
    stretch_intervals: bool = False,
    multigrid: Any = None,
    augmentation: AugmentationOptions | None = None,
    target: Callable[..., Any] | None = None,
) -> ClipLoader:
    """Return shuffled, randomly cropped training clips.

    Args:
        data: training videos.
        options: decoding and augmentation.
        spec: how the network sees clips.
        seed: seed of everything that is drawn.
        batch_size: clips over all processes.
        train_interval: intervals that clips draw from; None: 1 to the spec's interval.
        stretch_intervals: see `InputOptions.stretch_intervals`.
        multigrid: schedule of shapes, or None.
        augmentation: colors, noise and warps; None: none.
        target: see `vidseg.loaders.ClipLoader`.

    Raises:
        ValueError: options that contradict each other.
    """
    intervals = train_interval or tuple(range(1, spec.interval + 1))
    sampling: FrameSampling = RandomStart(
        intervals, full_length=spec.frames * spec.stack if stretch_intervals else None
    )
    if spec.sampling == "segments":
        sampling = SegmentSampling(train=True, consecutive=spec.stack)
    size = (spec.size, spec.size)
    geometry = named_geometry(options.geometry, size=size, train=True)
    if not options.mirror:
        geometry = Geometry(tuple(step for step in geometry.steps if not isinstance(step, Mirror)))
    return ClipLoader(
        data,
        train=True,
        interval=intervals,
        sampling=sampling,
        geometry=geometry,
        augment=augmentation_presets(augmentation or AugmentationOptions()),
        sampler=_order(data, options, seed=seed),
        target=target,
        shapes=None if multigrid is None else multigrid.shapes,
        cache_bytes=options.cache_bytes,
        enlarge=options.enlarge,
        **_common(options, spec, seed=seed, batch_size=batch_size),
    )


def evaluation_loader(
    data: VideoDataset,
    options: RecognitionData,
    spec: InputSpec,
    *,
    batch_size: int,
    clips: int = 1,
    crops: int = 1,
    target: Callable[..., Any] | None = None,
) -> ClipLoader:
    """Return the clips that an evaluation sees, in order.

    Args:
        data: videos.
        options: decoding, and `val_geometry`.
        spec: how the network sees clips.
        batch_size: clips over all processes.
        clips: views in time of each video; 1 is the middle.
        crops: views in space of each clip: 1, 3, 5 or 10.
        target: see `vidseg.loaders.ClipLoader`.

    Raises:
        ValueError: a number of clips or crops that does not exist.
    """
    if clips < 1:
        raise ValueError(f"clips={clips} must be at least 1")
    if crops != 1 and crops not in _CROPS:
        raise ValueError(f"crops={crops} is not one of 1, {', '.join(map(str, _CROPS))}")
    sampling: FrameSampling = CenterClip(spec.interval)
    if clips > 1:
        sampling = DenseClips(clips, interval=spec.interval, rule=options.clip_positions)
    if spec.sampling == "segments":
        sampling = SegmentSampling(clips=clips, consecutive=spec.stack)
    size = (spec.size, spec.size)
    if crops > 1:
        geometry = named_geometry(_CROPS[crops], size=size, train=False)
    elif options.val_geometry is not None:
        geometry = named_geometry(options.val_geometry, size=size, train=False)
    else:
        geometry = spec_geometry(spec)
    return ClipLoader(
        data,
        train=False,
        interval=spec.interval,
        sampling=sampling,
        geometry=geometry,
        target=target,
        **_common(options, spec, seed=0, batch_size=batch_size),
    )


def augmentation_presets(options: AugmentationOptions) -> tuple[Preset, ...] | None:
    """Return the presets that the options choose, in the order in which they are applied; None without any.

    Raises:
        ValueError: an unknown name, or two presets with a warp.
    """
    presets = list(color_presets(options.augment))
    if options.rand_augment:
        presets.append(RandAugment(int(options.rand_augment[0]), *options.rand_augment[1:]))
    if options.color_jitter:
        names = ("brightness", "contrast", "saturation", "hue")
        presets.append(color_jitter(**dict(zip(names, options.color_jitter, strict=True))))
    if options.random_erasing:
        presets.append(random_erasing(*options.random_erasing))
    draw_warps(presets, 0, 0, [0])  # two warps are an error now, not in the first batch
    return tuple(presets) or None


def _order(data: VideoDataset, options: RecognitionData, *, seed: int) -> VideoOrder | None:
    """The order of an epoch; None for each video once."""
    if options.repeats == 1 and not options.balance:
        return None
    return VideoOrder(data.labels, repeats=options.repeats, balanced=options.balance, seed=seed)


def spec_geometry(spec: InputSpec) -> Geometry:
    """Return the crop that a network's input spec describes."""
    if spec.crop == "stretch":
        return Geometry(())
    return Geometry((ResizeShort(ratio=1 if spec.resize is None else spec.resize / spec.size), CenterCrop()))


def mirrored(clips: Tensor, spec: InputSpec) -> Tensor:
    """Return mirrored clips (B, C, T, H, W); the x of flow and motion vectors changes its sign."""
    flipped, first = clips.flip(-1), 0
    for part in spec.modality.split("+"):
        mean, std = (spec.mean, spec.std) if first == 0 else (HALF, HALF)
        count = 2 * spec.stack if part in ("flow", "motion") else 3
        if part in ("flow", "motion"):
            x = slice(first, first + count, 2)
            flipped[:, x] = 2 * (0.5 - mean[0]) / std[0] - flipped[:, x]
        first += count
    return flipped


def _common(options: RecognitionData, spec: InputSpec, *, seed: int, batch_size: int) -> dict[str, Any]:
    return {
        "frames": spec.frames,
        "size": spec.size,
        "batch_size": batch_size,
        "seed": seed,
        "color": spec.color,
        "stack": spec.stack,
        **modality_options(spec),
        "backend": options.backend,
        "threads": options.threads,
        "on_error": options.on_error,
    }
