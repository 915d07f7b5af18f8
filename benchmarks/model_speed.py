"""Speed of forward and backward passes of networks with the options of `vidseg.models.prepare`.

    python benchmarks/model_speed.py [--networks srtg_r3d_34 mtnet_s] [--quick] [--json FILE]

The baseline has contiguous layout, no compilation and no activation checkpointing. It is compared with the options
channels last, compile and checkpoint, alone and combined, with the same weights and clips. Both variants alternate, and
the ratio is the median over the rounds of baseline / option. The logits of both are compared in evaluation mode first.
Memory is what a training step allocates in addition to the weights. On a GPU the clips are larger and the default
precision is bfloat16.

The second table shows the overhead of the training loop: the time of `vidseg.Trainer` outside forward pass, backward
pass and optimizer, with a log line at each step, and the part of the speed monitor. Batches are in memory, so the loop
does not wait for a loader; times are CPU seconds of the thread of the loop.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import hardware
from torch import Tensor, nn

from vidseg import Trainer
from vidseg.engine.monitors import run_log
from vidseg.models import create_model, prepare
from vidseg.models._profile import measure

Row = dict[str, Any]
WAYS: dict[str, dict[str, bool]] = {
    "channels last": {"channels_last": True},
    "compiled": {"compile": True},
    "channels last, compiled": {"channels_last": True, "compile": True},
    "checkpointed": {"checkpointing": True},
}


def passes(model: nn.Module, clips: Tensor, precision: torch.dtype) -> tuple[float, float]:
    """Return the seconds of the forward and of the backward pass of one training step."""
    model.zero_grad(set_to_none=True)
    began = now(clips.device)
    with casting(clips.device, precision):
        score = model(clips).float().square().mean()
    middle = now(clips.device)
    score.backward()
    return middle - began, now(clips.device) - middle


def casting(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def difference(plain: nn.Module, other: nn.Module, clips: Tensor, precision: torch.dtype) -> float:
    """Return the relative difference of the logits in evaluation mode."""
    logits = []
    for model in (plain, other):
        model.eval()
        with torch.no_grad(), casting(clips.device, precision):
            logits.append(model(clips).float())
        model.train()
    return ((logits[1] - logits[0]).norm() / logits[0].norm()).item()


def compare(name: str, clips: Tensor, ways: list[str], rounds: int, precision: torch.dtype) -> list[Row]:
    torch.manual_seed(0)
    plain = create_model(name, num_classes=400).to(clips.device)
    with casting(clips.device, precision):
        plain_bytes = measure(plain, clips, rounds=1).training_bytes
    rows = []
    for way in ways:
        other = prepare(copy.deepcopy(plain), **WAYS[way])
        off = difference(plain, other, clips, precision)  # before training steps change the statistics of norm layers
        began = now(clips.device)
        passes(other, clips, precision)  # warm-up, including compilation
        first = now(clips.device) - began
        with casting(clips.device, precision):
            other_bytes = measure(other, clips, rounds=1).training_bytes
        pairs = []
        for model in (plain, other):
            passes(model, clips, precision)
        for _ in range(rounds):
            pairs.append((passes(plain, clips, precision), passes(other, clips, precision)))
        rows.append(
            {
                "network": name,
                "way": way,
                "plain_forward_ms": statistics.median(a[0] for a, _ in pairs) * 1e3,
                "plain_backward_ms": statistics.median(a[1] for a, _ in pairs) * 1e3,
                "forward_ms": statistics.median(b[0] for _, b in pairs) * 1e3,
                "backward_ms": statistics.median(b[1] for _, b in pairs) * 1e3,
                "ratio": statistics.median(sum(a) / sum(b) for a, b in pairs),
                "plain_mb": plain_bytes / 1e6,
                "mb": other_bytes / 1e6,
                "first_step_s": first,
                "difference": off,
            }
        )
        print(f"{name}, {way}: done", flush=True)
    return rows


@dataclass
class ReadyBatch:
    """Batch with the attributes that the recognition task reads."""

    frames: Tensor
    labels: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "ReadyBatch":
        return self

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class ReadyLoader:
    """Loader that returns the same batch repeatedly."""

    batch: ReadyBatch
    steps: int

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[ReadyBatch]:
        return iter([self.batch] * self.steps)


def overhead(name: str, clips: Tensor, steps: int) -> Row:
    """Measure the CPU seconds of the steps of an epoch, and the part of the training loop."""
    torch.manual_seed(0)
    batch = ReadyBatch(clips, torch.zeros(len(clips), dtype=torch.int64))
    trainer = Trainer(create_model(name, num_classes=400), ReadyLoader(batch, steps), device="cpu")
    spent: Counter[str] = Counter()

    def timed(owner: Any, method: str, what: str) -> None:
        original = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            result = original(*args, **kwargs)
            spent[what] += time.thread_time() - began
            return result

        setattr(owner, method, call)

    for owner, method in ((trainer.task, "step"), (trainer.precision, "backward"), (trainer.precision, "step")):
        timed(owner, method, "step")
    for method in ("start", "turn", "stop", "speeds"):
        timed(trainer._step.speed, method, "monitor")
    timed(trainer, "_train_epoch", "epoch")
    with tempfile.TemporaryDirectory() as folder, run_log(Path(folder) / "train.log"):
        trainer.fit(1, folder)
    loop = spent["epoch"] - spent["step"]
    return {
        "network": name,
        "step_ms": spent["epoch"] / steps * 1e3,
        "loop_ms": loop / steps * 1e3,
        "monitor_ms": spent["monitor"] / steps * 1e3,
        "share": loop / spent["epoch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["r3d_18", "srtg_r3d_34", "srtg_r2plus1d_34", "mtnet_s"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch-size", type=int, help="clips per batch (default 2, on a GPU 32)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, help="side of a clip in pixels (default 112, on a GPU 224)")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], help="precision (default float32, on a GPU bfloat16)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of alternating steps per variant")
    parser.add_argument("--steps", type=int, default=20, help="number of steps of the training loop")
    parser.add_argument(
        "--quick", action="store_true", help="use the smallest networks, 8 frames of 64x64, no compilation"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads of PyTorch")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    shape = (
        options.batch_size or (32 if gpu else 2),
        3,
        options.frames,
        *[options.size or (224 if gpu else 112)] * 2,
    )
    networks, ways = options.networks, options.ways
    if options.quick:
        networks, shape = ["srtg_r3d_18", "mtnet_xs"], (2, 3, 8, 64, 64)
        ways = [way for way in ways if "compile" not in WAYS[way]]
    precision = getattr(torch, options.precision or ("bfloat16" if gpu else "float32"))
    machine = {
        "machine": hardware(),
        "torch": torch.__version__,
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "clips": shape,
        "precision": str(precision),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    clips = torch.randn(shape, device=device)
    rows = [row for name in networks for row in compare(name, clips, ways, options.rounds, precision)]
    loops = [overhead(name, clips.cpu(), options.steps) for name in networks]
    if not gpu:
        print("no GPU found; measuring on the CPU only")
    heads = (
        "network",
        "option",
        "forward ms",
        "backward ms",
        "baseline ms",
        "ratio",
        "MB",
        "baseline MB",
        "difference",
    )
    print(f"\n| {' | '.join(heads)} |\n| --- | --- |{' ---: |' * (len(heads) - 2)}")
    line = "| {network} | {way} | {forward_ms:.1f} | {backward_ms:.1f} | {both:.1f} | {ratio:.2f} | {mb:.0f} "
    line += "| {plain_mb:.0f} | {difference:.0e} |"
    for row in rows:
        print(line.format(both=row["plain_forward_ms"] + row["plain_backward_ms"], **row))
    print(f"\noverhead of the training loop, {options.steps} steps, CPU time:\n")
    print("| network | step ms | loop ms | speed monitor ms | loop / step |\n| --- | ---: | ---: | ---: | ---: |")
    for row in loops:
        times = "{step_ms:.1f} | {loop_ms:.2f} | {monitor_ms:.3f} | {share:.2%}".format(**row)
        print(f"| {row['network']} | {times} |")
    if options.json:
        options.json.write_text(json.dumps({**machine, "speed": rows, "loop": loops}, indent=1) + "\n")


if __name__ == "__main__":
    main()
