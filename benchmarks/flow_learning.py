"""End-point errors of optical flow on generated pairs of moving shapes, whose true flow is known, on the CPU.

    python benchmarks/flow_learning.py [--quick] [--folder DIR] [--rows zero dis ...] [--json]

The held-out pairs show textured shapes over a textured background; each layer is translated, rotated and scaled, and
the flow is known at every pixel. Rows: "zero" predicts no motion; "dis" is OpenCV's DIS (extra `flow`); "motion
vectors" are those of the H.264 encoder for the pair as a clip of two frames, with the opposite sign, since they lead
from the second frame back to the first; the networks are trained from random weights with `vidseg train flow shapes`,
on other pairs with other textures. No row uses published weights. "visible" is the error of the pixels whose point is
inside the second picture and not hidden there.

Exit status 1 if raft_small is not below 0.6 of the error of "zero" (not checked with --quick, which only verifies that
all parts run). A given folder keeps the runs; a second call skips finished ones.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import tyro

import vidseg
from vidseg.loaders import MovingShapes
from vidseg.metrics import FlowScores, flow_error_sums
from vidseg.tasks.flow.recipes import recipe_options
from vidseg.tasks.flow.runs import train_flow

SHARE = 0.6
NETWORKS = ("fastflownet", "raft_small")
ROWS = ("zero", "dis", "motion vectors", *NETWORKS)

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Two pictures uint8 (H, W, 3) to flow (2, H, W)."""


@dataclass
class Options:
    """Compare methods of optical flow."""

    rows: tuple[str, ...] = ROWS
    """Rows to run."""
    folder: Path | None = None
    """Folder of the runs; default: a temporary folder."""
    quick: bool = False
    """Few pairs and steps."""
    pairs: int = 64
    """Held-out pairs."""
    height: int = 96
    """Height of the held-out pictures in pixels; the networks are trained on smaller ones."""
    width: int = 128
    """Width of the held-out pictures in pixels."""
    motion: float = 8.0
    """Largest translation in pixels."""
    steps: int | None = None
    """Optimizer steps of the networks; default: those of `vidseg train flow shapes`."""
    threads: int | None = None
    """Threads of the networks; default: one for each core."""
    seed: int = 1
    """Random seed."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main() -> int:
    """Run all rows and print the table."""
    options = tyro.cli(Options, description=__doc__)
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        print(f"unknown row {sorted(unknown)[0]!r}; expected one of {', '.join(ROWS)}", file=sys.stderr)
        return 2
    if options.quick:
        options = replace(options, pairs=4, steps=4)
    if options.folder is not None:
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: Options, folder: Path) -> int:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    shapes = MovingShapes(
        options.pairs, height=options.height, width=options.width, reach=options.motion, seed=options.seed, split="test"
    )
    pairs = [shapes.render(number) for number in range(options.pairs)]
    rows: dict[str, dict[str, Any]] = {}
    for name in options.rows:
        start, cpu = time.perf_counter(), time.process_time()
        method = _method(name, options, folder)
        trained = {"train_seconds": time.perf_counter() - start, "train_cpu_seconds": time.process_time() - cpu}
        rows[name] = _scores(method, pairs) | trained
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if options.json:
        shown = asdict(options) | {"folder": str(options.folder)}
        print(json.dumps({"vidseg": vidseg.__version__, "options": shown, "rows": rows}))
    else:
        _print_table(rows, options)
    if not options.quick and {"zero", "raft_small"} <= rows.keys():
        share = rows["raft_small"]["epe"] / rows["zero"]["epe"]
        if share >= SHARE:
            print(f"raft_small has {share:.2f} of the error of no motion, not below {SHARE:g}", file=sys.stderr)
            return 1
    return 0


def _method(name: str, options: Options, folder: Path) -> Method:
    if name == "zero":
        return lambda first, second: np.zeros((2, *first.shape[:2]), np.float32)
    if name == "dis":
        from vidseg.videos.classical_flow import dis_flow

        return dis_flow
    if name == "motion vectors":
        return lambda first, second: _encoded_motion(first, second, folder)
    return _trained(name, options, folder / name)


def _trained(name: str, options: Options, out: Path) -> Method:
    steps = {} if options.steps is None else {"max_steps": options.steps}
    if not (out / "test.json").is_file():
        chosen = recipe_options(
            "shapes",
            name,
            dataset="shapes",
            out=str(out),
            motion=options.motion,
            seed=options.seed,
            held_out=options.pairs,
            device="cpu",
            resume=out.is_dir(),
            **steps,
        )
        train_flow(chosen)
    model = vidseg.load_trained(out)
    return model.predict


def _encoded_motion(first: np.ndarray, second: np.ndarray, folder: Path) -> np.ndarray:
    """The motion vectors of a clip of two frames, as the flow of the first one."""
    from vidseg.videos.motion_vectors import read_motion

    path = folder / "pair.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *first.shape[:2], "yuv420p"
        stream.options = {"preset": "medium", "crf": "20"}
        for number, picture in enumerate((first, second)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return -list(read_motion(path))[1].field


def _scores(method: Method, pairs: list[tuple[np.ndarray, ...]]) -> dict[str, Any]:
    everywhere, shown = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    start = time.perf_counter()
    found = [method(first, second) for first, second, _, _ in pairs]
    seconds = time.perf_counter() - start
    for flow, (_, _, target, visible) in zip(found, pairs, strict=True):
        given, true = torch.from_numpy(np.ascontiguousarray(flow)), torch.from_numpy(target)
        everywhere += flow_error_sums(given, true)
        shown += flow_error_sums(given, true, torch.from_numpy(visible))
    scores = FlowScores.from_sums(everywhere).as_dict()
    return scores | {"visible_epe": FlowScores.from_sums(shown).epe, "ms_per_pair": 1000 * seconds / len(pairs)}


def _print_table(rows: dict[str, dict[str, Any]], options: Options) -> None:
    print(
        f"{options.pairs} held-out pairs of {options.width} x {options.height}, motion up to {options.motion:g} px; "
        f"cpu, {Path(__file__).name} of vidseg {vidseg.__version__}"
    )
    heads = "".join(f"{head:>8}" for head in ("1 px", "3 px", "F1-all"))
    print(f"{'method':16}{'EPE':>8}{'visible':>9}{heads}{'ms/pair':>9}{'training s':>12}{'CPU s':>8}")
    for name, row in rows.items():
        shares = "".join(f"{row[key]:8.1%}" for key in ("within_1px", "within_3px", "f1_all"))
        trained = f"{row['train_seconds']:12.0f}{row['train_cpu_seconds']:8.0f}" if name in NETWORKS else ""
        print(f"{name:16}{row['epe']:8.3f}{row['visible_epe']:9.3f}{shares}{row['ms_per_pair']:9.1f}{trained}")


if __name__ == "__main__":
    sys.exit(main())
