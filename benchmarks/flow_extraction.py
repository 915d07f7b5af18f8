"""Rows of flow_speed.py about extraction: `vidseg extract-flow` with one and with two processes."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vidseg.convert import convert_videos
from vidseg.convert.synth import synthesize_videos
from vidseg.convert.synth_options import SynthOptions
from vidseg.models import create_model
from vidseg.tasks.flow.extraction import extract_flow
from vidseg.tasks.flow.extraction_options import ExtractFlowOptions

__all__ = ["extraction_rows"]

METHODS = {"dis": 24, "motion-vectors": 96, "fastflownet": 6}
"""Number of videos of 56 frames for each method."""


def seconds(data: Path, method: str, *, workers: int, weights: Path) -> float:
    """Extract a whole data set and return the elapsed time, with the start of the processes."""
    chosen = str(weights) if method == "fastflownet" else None
    options = ExtractFlowOptions(method=method, weights=chosen, workers=workers, overwrite=True)
    began = time.perf_counter()
    report = extract_flow(data, options)
    assert report.ok, report
    return time.perf_counter() - began


def extraction_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each method in turns with one and with two processes."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "fastflownet.pth"
        torch.save(create_model("fastflownet").state_dict(), weights)
        for method, videos in METHODS.items():
            videos = 4 if options.quick else videos
            source, data = folder / f"{method} videos", folder / method
            synthesize_videos(source, SynthOptions(videos=videos))
            convert_videos(source / "videos", data)
            times: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(1 if options.quick else 3):
                for workers in times:
                    times[workers].append(seconds(data, method, workers=workers, weights=weights))
            frames = 56 * videos
            rows.append(
                {
                    "method": method,
                    "frames": frames,
                    "one_fps": frames / statistics.median(times[1]),
                    "two_fps": frames / statistics.median(times[2]),
                    "ratio": statistics.median(one / two for one, two in zip(times[1], times[2], strict=True)),
                }
            )
            print(f"{method}: two processes, ratio {rows[-1]['ratio']:.2f}", flush=True)
    return rows
