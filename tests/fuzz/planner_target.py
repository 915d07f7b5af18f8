"""Hostile arguments of everything that plans batches: NaN, huge, negative, fractional and empty ones."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile import hostile_number
from inputs import Call, Target

from vidseg.clips import (
    BatchPlan,
    BatchShape,
    ClipPlanner,
    ColorPlan,
    Geometry,
    Multigrid,
    crops,
    geometry,
    sampling,
)
from vidseg.clips.augmentations import color_jitter, random_erasing
from vidseg.clips.cycles import CyclesFirst
from vidseg.clips.mixing import draw_mixup
from vidseg.clips.stream_windows import StreamPlan, WindowShape
from vidseg.frames import FrameDatabaseError, FrameWriter, encode_rgb
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm

ERRORS = (ValueError, TypeError, IndexError)
_MOST_READ = 3  # batches and items that are planned

PLANNER = {
    "videos": [[40, 120, 160], [3, 160, 120], [250, 64, 64], [1, 20, 30]],
    "frames": 4,
    "interval": [1, 2],
    "size": [32, 48],
    "batch_size": 2,
    "seed": 0,
    "train": True,
    "sampling": None,
    "steps": [["RandomResizedCrop", {"scale": [0.2, 1.0], "ratio": [0.75, 1.5]}], ["Mirror", {"probability": 0.5}]],
    "augment": None,
    "sampler": None,
    "rank": 0,
    "world_size": 1,
    "epoch": 0,
}
SAMPLINGS: tuple[Any, ...] = (
    "random", "center", "segments", "dense", "clips", "sequential",
    ["RandomStart", {"intervals": [1, 3], "full_length": 8, "short": "clamp"}],
    ["CenterClip", {"interval": 2, "short": "clamp"}],
    ["SegmentSampling", {"consecutive": 2, "clips": 2}],
    ["SegmentSampling", {"consecutive": 1, "train": True}],
    ["DenseFrames", {"clips": 3, "window": 64}],
    ["DenseClips", {"clips": 3, "interval": 2, "rule": "pyslowfast"}],
    ["DenseClips", {"clips": 3, "interval": 2, "rule": "mmaction2"}],
    ["SequentialClips", {"interval": 2, "short": "loop"}],
    ["SequentialClips", {"interval": 2, "short": "clamp"}],
)  # fmt: skip
STEPS: tuple[Any, ...] = (
    ["CenterCrop", {"size": [20, 30]}],
    ["RandomCrop", {"size": 20}],
    ["RandomResizedCrop", {"scale": [0.2, 1.0], "ratio": [0.75, 1.5]}],
    ["MultiScaleCrop", {"scales": [1, 0.75, 0.5], "distortion": 1, "size": 20}],
    ["ThreeCrop", {"size": 20}],
    ["FiveCrop", {"mirrored": True, "size": 20}],
    ["ResizeShort", {"size": 64, "ratio": 1.0}],
    ["ResizeShort", {"size": None, "ratio": 1.2}],
    ["RandomShortSide", {"smallest": 32, "largest": 64}],
    ["ResizeExact", {"size": [32, 64]}],
    ["Mirror", {"probability": 0.5}],
    ["Rotation", {"degrees": [-10, 10]}],
    ["Perspective", {"scale": [0.02, 0.05]}],
)
AUGMENTATIONS: tuple[Any, ...] = (
    None,
    "published",
    ["color_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}],
    ["random_erasing", {"probability": 0.5, "area_low": 0.02, "area_high": 0.4, "aspect_low": 0.3}],
)
OTHERS: dict[str, dict[str, Any]] = {
    "multigrid": {
        "clips": 200, "batch_size": 2, "frames": 8, "size": [64, 64], "long_cycles": True, "short_cycles": True,
        "epochs": 2, "epoch": 0, "index": 3,
    },
    "windows": {
        "lengths": [40, 7, 100], "video_frames": [40, 6, 120], "stride": 8, "frames": 4, "interval": 2, "group": 2,
        "sampling": "uniform", "shuffle": True, "seed": 0, "epoch": 0, "rank": 0, "ranks": 1, "incomplete": "repeat",
    },
    "mixup": {"seed": 0, "epoch": 0, "batch": 0, "clips": 4, "alpha": 0.2, "rank": 0},
    "shape": {"clips": 2, "frames": 4, "height": 16, "width": 16},
    "fill": {
        "videos": [0, 1, 0], "frames": [[0, 1], [3, 2], [1, 1]], "height": 8, "width": 12, "threads": 1,
        "matrices": [[[2, 0, 0], [0, 2, 0], [0, 0, 1]], [[1, 0, 5], [0, 1, 3], [0, 0, 1]],
                     [[1, 0.1, 5], [-0.1, 1, 3], [0.001, 0, 1]]],
        "offsets": [0, 1, 1, 2], "codes": [0, 5], "parameters": [[1.5] * 8, [1] * 8],
    },
}  # fmt: skip


def make(draw: random.Random, folder: Path) -> tuple[str, bytes]:
    kind = draw.choice(("planner", "planner", "planner", "planner", *OTHERS))
    arguments = copy.deepcopy(OTHERS.get(kind, PLANNER))
    if kind == "planner":
        arguments["train"] = draw.random() < 0.5
        arguments["sampling"] = copy.deepcopy(draw.choice((None, *SAMPLINGS)))
        steps = draw.sample(STEPS, draw.randint(0, 3))
        arguments["steps"] = draw.choice((None, copy.deepcopy(steps), copy.deepcopy(steps)))
        arguments["augment"] = copy.deepcopy(draw.choice(AUGMENTATIONS))
        arguments["sampler"] = draw.choice((None, None, [0, 3, 3, 1]))
        arguments["epoch"] = draw.choice((0, 1))
    if kind == "windows":
        arguments["sampling"] = draw.choice(("uniform", "random", "linspace", "uniform_random"))
    for _ in range(draw.choice((1, 1, 2, 3))):
        arguments = _change(draw, arguments, top=True)
    return f"{kind}.json", json.dumps(arguments).encode()


def _change(draw: random.Random, node: Any, *, top: bool = False) -> Any:
    """Return the arguments with another number somewhere, or an empty or longer list. Names stay."""
    if isinstance(node, list) and node and isinstance(node[0], str):  # a name and its arguments
        node[1] = _change(draw, node[1])
    elif isinstance(node, dict) and node:
        key = draw.choice(list(node))
        node[key] = _change(draw, node[key])
    elif isinstance(node, list) and node and draw.random() < 0.85:
        if draw.random() < 0.1:
            node.append(node[-1])
        else:
            at = draw.randrange(len(node))
            node[at] = _change(draw, node[at])
    elif isinstance(node, list):
        return []
    elif isinstance(node, int | float) and not isinstance(node, bool) and not top:
        return draw.choice((hostile_number(draw), hostile_number(draw), 1.5))
    return node


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _object(module: Any, description: Any) -> Any:
    """Make `["Name", {arguments}]`; a name or None stays."""
    if not isinstance(description, list):
        return description
    name, arguments = description
    return getattr(module, name)(**{key: _tuples(value) for key, value in arguments.items()})


def _videos(rows: list[list[Any]]) -> VideoDataset:
    """A data set without files; numbers that no catalog can have are left out."""
    fits = [
        row for row in rows
        if isinstance(row, list) and len(row) == 3 and all(isinstance(one, int) and 0 <= one < 2**31 for one in row)
    ]  # fmt: skip
    paths = [f"jpg/run/{number}".encode() for number in range(len(fits))]
    stops = np.cumsum([len(path) for path in paths], dtype=np.int64)
    columns = {
        "label": np.zeros(len(fits), np.int64),
        "frames": np.array([row[0] for row in fits], np.int64),
        "height": np.array([row[1] for row in fits], np.int32),
        "width": np.array([row[2] for row in fits], np.int32),
        "fps": np.full(len(fits), 25.0),
        "path_stop": stops,
        "path_start": stops - np.array([len(path) for path in paths], np.int64),
    }
    return VideoDataset(
        Path("data"),
        split_name=None,
        splits=[],
        classes=["run"],
        columns=columns,
        path_bytes=np.frombuffer(b"".join(paths), np.uint8),
    )


def plan(arguments: dict[str, Any]) -> None:
    data = _videos(arguments["videos"])
    size, interval = _tuples(arguments["size"]), _tuples(arguments["interval"])
    steps = arguments["steps"]
    place = {name: module for module in (crops, geometry) for name in module.__all__}
    augment = arguments["augment"]
    if isinstance(augment, list):
        augment = {"color_jitter": color_jitter, "random_erasing": random_erasing}[augment[0]](**augment[1])
    planner = ClipPlanner(
        data,
        frames=arguments["frames"],
        interval=interval,
        size=size,
        batch_size=arguments["batch_size"],
        seed=arguments["seed"],
        train=arguments["train"],
        sampling=_object(sampling, arguments["sampling"]),
        geometry=None if steps is None else Geometry(tuple(_object(place[step[0]], step) for step in steps)),
        augment=augment,
        sampler=arguments["sampler"],
        rank=arguments["rank"],
        world_size=arguments["world_size"],
    )
    epoch = arguments["epoch"]
    assert repr(planner)
    for index in range(min(planner.batches(epoch), _MOST_READ)):
        made = planner.plan(epoch, index)
        assert made.frames.shape[1] == arguments["frames"], made.frames.shape
        assert (made.frames >= 0).all(), "negative frame number"
        assert (made.frames < data.frames[made.videos][:, None]).all(), "frame number after the end"
        assert np.isfinite(made.matrices).all(), "matrix with a value that is not finite"
        assert np.isfinite(made.colors.parameters).all(), "color parameter that is not finite"
        assert len(made) == planner.shape(epoch, index).clips


def multigrid(arguments: dict[str, Any]) -> None:
    chosen = {name: _tuples(value) for name, value in arguments.items() if name not in ("epochs", "epoch", "index")}
    cycles = CyclesFirst(Multigrid(**chosen), arguments["epochs"])
    shapes = cycles.shapes(arguments["epoch"])
    used = sum(shape.clips for shape in shapes)
    assert len(shapes) == 1 or 0 < used <= arguments["clips"]
    assert 0 < cycles.lr_factor(arguments["epoch"], arguments["index"]) <= 1


def windows(arguments: dict[str, Any]) -> None:
    shape = WindowShape(arguments["stride"], arguments["frames"], arguments["interval"])
    names = ("group", "sampling", "shuffle", "seed", "epoch", "rank", "ranks", "incomplete")
    made = StreamPlan(
        arguments["lengths"],
        shape,
        video_frames=arguments["video_frames"],
        **{name: arguments[name] for name in names},
    )
    for index in {0, len(made) // 2, len(made) - 1} if len(made) else ():
        item = made[index]
        assert (item.frames >= -1).all() and (item.frames < made.lengths[item.videos][:, None]).all()
        assert (item.valid >= 0).all() and (item.valid <= shape.span).all()


def mixup(arguments: dict[str, Any]) -> None:
    made = draw_mixup(**arguments)
    assert 0 <= made.share <= 1 and math.isfinite(made.share)
    assert sorted(made.partners.tolist()) == list(range(arguments["clips"]))


def shape(arguments: dict[str, Any]) -> None:
    made = BatchShape(**arguments)
    assert all(isinstance(side, int) and side > 0 for side in (made.clips, made.frames, made.height, made.width))


def fill(arguments: dict[str, Any], folder: Path) -> None:
    """Fill a batch from a plan that no planner makes."""
    root = folder / "data"
    for number in range(2):
        with FrameWriter(root / f"jpg/run/{number}/frames.db", meta={"height": 16, "width": 24}) as writer:
            for _ in range(4):
                writer.add(encode_rgb(torch.full((16, 24, 3), 60 * number, dtype=torch.uint8), 80)[0], width=24)
    data = _videos([[4, 16, 24], [4, 16, 24]])
    data.root = root
    clips = len(arguments["videos"])
    try:
        made = BatchPlan(
            epoch=0,
            index=0,
            height=arguments["height"],
            width=arguments["width"],
            videos=np.array(arguments["videos"], np.int64),
            views=np.zeros(clips, np.int64),
            labels=np.zeros(clips, np.int64),
            frames=np.array(arguments["frames"], np.int64),
            matrices=np.array(arguments["matrices"], np.float64),
            colors=ColorPlan(
                np.array(arguments["offsets"], np.int64),
                np.array(arguments["codes"], np.int64),
                np.array(arguments["parameters"], np.float64),
            ),
        )
    except (ValueError, TypeError, OverflowError):  # not arrays of integers or numbers
        return
    form = OutputForm(dtype=torch.uint8, layout="bthwc")
    frames, shown = NativeFiller(data, form, threads=arguments["threads"]).fill(made)
    assert frames.shape == (*made.shape, 3) and ((shown >= 0) & (shown < 4)).all()


def calls(path: Path) -> Iterator[Call]:
    arguments = json.loads(path.read_bytes())
    if path.stem == "fill":
        yield Call("fill", lambda: fill(arguments, path.parent), (*ERRORS, FrameDatabaseError))
        return
    uses: dict[str, Callable[[dict[str, Any]], None]] = {
        "planner": plan,
        "multigrid": multigrid,
        "windows": windows,
        "mixup": mixup,
        "shape": shape,
    }
    yield Call(path.stem, lambda: uses[path.stem](arguments), ERRORS)


TARGET = Target(make, calls)
