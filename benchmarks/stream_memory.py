"""Peak memory of training a streaming network from pixels as a function of video length.

    python benchmarks/stream_memory.py [--minutes 1 5 20] [--whole 1 5] [--network etesvs] [--device cuda] [--json]

Each row is a separate process that trains on one video for one step, with a backward pass after each window. Rows
"whole" run a single backward pass over all windows at the end. Frames are random and generated per window. "peak MB" is
the peak memory of the process (or GPU), "above start" the part allocated after network and optimizer. Exit status 1 if
the peak of the streamed rows grows by more than a tenth.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro

import vidseg
from vidseg.clips.stream_windows import StreamPlan, WindowShape
from vidseg.engine import OptimizerOptions, ScheduleOptions, Trainer
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses import create_stream_loss
from vidseg.models import create_model
from vidseg.tasks.streaming.task import StreamingTask

GROWTH = 1.1


@dataclass
class Options:
    """Measure the memory of training on streams."""

    minutes: tuple[int, ...] = (1, 5, 20)
    """Lengths of the video in minutes."""
    whole: tuple[int, ...] = (1, 5)
    """Lengths in minutes that are also trained with one backward pass at the end."""
    network: str = "etesvs"
    """Name of a streaming network."""
    width: float = 0.25
    """Width factor of the backbone."""
    size: int = 64
    """Height and width of the frames in pixels."""
    fps: int = 15
    """Frames per second of the video."""
    stride: int = 128
    """Frames from the start of a window to the next."""
    frames: int = 32
    """Input frames per window."""
    interval: int = 4
    """Frames between input frames."""
    device: str = "cpu"
    """Device of network and frames."""
    json: bool = False
    """Print one JSON object instead of a table."""
    child: str = ""
    """Length and mode of this process; set by the benchmark."""


def peak_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class RandomVideo:
    """Loader of one video's windows with random frames and labels, made one by one."""

    epoch = 0

    def __init__(self, options: Options, minutes: int):
        self.options = options
        self.shape = WindowShape(options.stride, options.frames, options.interval)
        self.windows = StreamPlan([minutes * 60 * options.fps], self.shape)

    def plan(self, epoch: int) -> StreamPlan:
        return self.windows

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self):
        options, generator = self.options, torch.Generator().manual_seed(0)
        for item in self.windows:
            clips = torch.randn(1, 3, options.frames, options.size, options.size, generator=generator)
            labels = torch.randint(0, 11, (1, self.shape.span), generator=generator)
            labels[torch.from_numpy(~item.label_mask)] = -100
            yield StreamBatch(clips, labels, torch.from_numpy(item.mask), item)


def train_one(options: Options, minutes: int, way: str) -> dict[str, float]:
    """Train on one video in this process."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = create_model(options.network, num_classes=11, width=options.width).to(device)
    objective = create_stream_loss(options.network)
    loader = RandomVideo(options, minutes)
    if way == "stream":
        trainer = Trainer(
            model,
            loader,
            task=StreamingTask(objective),
            device=device,
            optimizer=OptimizerOptions(optimizer="adam"),
            schedule=ScheduleOptions(lr=5e-4),
        )
        before, start = peak_megabytes(device), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trainer.fit(1, folder)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        before, start = peak_megabytes(device), time.perf_counter()
        model.train()
        state, total = None, torch.zeros((), device=device)
        for batch in (batch.to(device) for batch in loader):
            output, state = model(batch.clips, state, batch.mask)
            total = total + objective(output, batch.labels, torch.from_numpy(batch.item.counts).to(device)).total
        total.backward()
        optimizer.step()
    peak = peak_megabytes(device)
    seconds = time.perf_counter() - start
    return {"windows": len(loader), "peak_mb": peak, "above_mb": peak - before, "seconds": seconds}


def in_fresh_process(options: Options, minutes: int, way: str) -> dict[str, object]:
    arguments = [sys.executable, __file__, "--child", f"{minutes} {way}"]
    for name in ("network", "width", "size", "fps", "stride", "frames", "interval", "device"):
        arguments += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed with exit status {done.returncode}:\n{done.stderr}")
    return {"minutes": minutes, "way": way, **json.loads(done.stdout)}


def main(options: Options) -> int:
    if options.child:
        minutes, way = options.child.split()
        print(json.dumps(train_one(options, int(minutes), way)))
        return 0
    rows = [in_fresh_process(options, minutes, "stream") for minutes in options.minutes]
    rows += [in_fresh_process(options, minutes, "whole") for minutes in options.whole]
    peaks = [float(str(row["peak_mb"])) for row in rows if row["way"] == "stream"]
    flat = max(peaks) <= GROWTH * min(peaks)
    if options.json:
        print(json.dumps({"vidseg": vidseg.__version__, "options": asdict(options), "rows": rows, "flat": flat}))
        return int(not flat)
    print(
        f"{options.network}, width {options.width}, windows of {options.frames} frames of {options.size} pixels, "
        f"{options.fps} frames/s, {options.device}, {Path(__file__).name} of vidseg {vidseg.__version__}"
    )
    print(f"{'video':>7}  {'training':8}  {'windows':>7}  {'peak MB':>8}  {'above start':>11}  {'seconds':>7}")
    for row in rows:
        print(
            f"{row['minutes']:>4} min  {row['way']:8}  {row['windows']:>7}  {row['peak_mb']:>8.0f}  "
            f"{row['above_mb']:>11.0f}  {row['seconds']:>7.1f}"
        )
    print(f"peak of streamed training: {min(peaks):.0f} to {max(peaks):.0f} MB, {'constant' if flat else 'GROWING'}")
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
