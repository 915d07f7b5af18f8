"""Rows of flow_speed.py about loading: clips of optical flow beside clips of colors of as many bytes."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidseg.clips.planner import ClipPlanner
from vidseg.frames import FlowForm, FlowWriter, FrameWriter, encode_rgb
from vidseg.labels import VideoDataset, VideoRecord, open_dataset, update_catalog
from vidseg.loaders.native_backend import NativeFiller
from vidseg.loaders.output import OutputForm

__all__ = ["loading_rows"]

SIZE = (256, 340)
LEVELS = 2
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "224, float32": ({}, {"size": 224}),
    "224, float16": ({"dtype": torch.float16}, {"size": 224}),
    "224, bytes for a device": ({"dtype": torch.uint8, "mapped": False}, {"size": 224}),
    "112, float32": ({}, {"size": 112}),
    "112, warped": ({}, {"size": 112, "augment": "kinetics"}),
}


def _picture(seed: int, channels: int, low: float, high: float, noise: float) -> Tensor:
    """Smooth areas with some grain, float32 (C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 14, 18, generator=generator) * (high - low) + low
    smooth = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic")[0]
    return (smooth + noise * torch.randn(channels, *SIZE, generator=generator)).clamp(low, high)


def _write(root: Path, videos: int, frames: int) -> tuple[VideoDataset, dict[str, float]]:
    """Make a data set with frames.db and flow.db, and return it with the bytes per frame of each."""
    form = FlowForm(method="made", levels=LEVELS)
    wanted = len(form.encode(_picture(0, 2, -16, 16, 0.3))[0])
    sample = _picture(0, 3, 0, 255, 14).to(torch.uint8).permute(1, 2, 0).contiguous()
    quality = min(range(50, 99), key=lambda one: abs(len(encode_rgb(sample, one)[0]) - wanted))
    records = []
    for video in range(videos):
        folder = root / "jpg" / "made" / f"clip_{video}"
        with (
            FrameWriter(folder / "frames.db", levels=LEVELS) as colors,
            FlowWriter(folder / "flow.db", form) as flows,
        ):
            for frame in range(frames):
                seed = 1000 * video + frame
                rgb = _picture(seed, 3, 0, 255, 14).to(torch.uint8).permute(1, 2, 0).contiguous()
                whole, *levels = encode_rgb(rgb, quality, levels=LEVELS)
                colors.add(whole, width=SIZE[1], levels=levels)
                flows.add_field(_picture(seed, 2, -16, 16, 0.3))
        records.append(
            VideoRecord(
                path=folder.relative_to(root).as_posix(),
                label="made",
                frames=frames,
                height=SIZE[0],
                width=SIZE[1],
                fps=25.0,
                seconds=frames / 25,
                size_bytes=(folder / "frames.db").stat().st_size,
            )
        )
    update_catalog(root, records)
    sizes = {name: sum(path.stat().st_size for path in root.rglob(f"{name}.db")) for name in ("frames", "flow")}
    return open_dataset(root), {name: size / videos / frames / 1e3 for name, size in sizes.items()}


def loading_rows(options: argparse.Namespace, alternate: Callable[..., dict[str, float]]) -> list[dict[str, Any]]:
    """Fill the same plans with flow and with colors, by one thread of the loader.

    Args:
        options: of the command; `quick` uses fewer videos.
        alternate: measures two functions in turns.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="vidseg_flow_") as folder:
        data, kilobytes = _write(Path(folder), *((2, 20) if options.quick else (8, 48)))
        for name, (form, planned) in CASES.items():
            planner = ClipPlanner(data, frames=16, batch_size=len(data), colors=False, seed=0, **planned)
            plans = [planner.plan(epoch, 0) for epoch in range(2)]
            flow = NativeFiller(data, OutputForm(modality="flow", **form), threads=1)
            color = NativeFiller(data, OutputForm(**form), threads=1)

            def run(filler: NativeFiller, plans: list = plans) -> None:
                for plan in plans:
                    filler.fill(plan)

            times = alternate(lambda f=flow: run(f), lambda f=color: run(f), options)
            clips = sum(len(plan) for plan in plans)
            rows.append(
                {
                    "clips of 16 frames": name,
                    "kB per frame": kilobytes["flow"],
                    "of colors": kilobytes["frames"],
                    "flow clips/s": clips / times["ms"] * 1e3,
                    "color clips/s": clips / times["other_ms"] * 1e3,
                    "ratio": times["ratio"],
                }
            )
            print(f"loading {name}: ratio {times['ratio']:.2f}", flush=True)
    return rows
