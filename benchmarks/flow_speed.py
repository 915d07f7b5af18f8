"""Speed and memory of optical flow: networks beside the published ones, RAFT's correlations on demand, loading,
motion vectors and extraction.

    python benchmarks/flow_speed.py [--peers FOLDER] [--sections networks correlation ...] [--networks "raft_*"]
        [--quick] [--rounds 5] [--batches 1 8] [--threads N] [--cpu-time] [--json FILE]

Sections:
    networks     each network beside the published module with the same weights, whose correlation is composed of
                 PyTorch operators (flow_peers.py); flows are compared first
    correlation  RAFT with on-demand correlations beside RAFT with those of all pairs, at 256 x 340 and at two and four
                 times as many pixels: time and peak memory
    loading      clips of optical flow beside clips of colors of as many bytes: the same plans, one thread of the loader
    motion       motion vectors and residuals beside plain decoding of a video file, one thread
    extraction   `vidseg extract-flow` with two processes beside one, with their start

Implementations alternate, and their order changes every round. A ratio is the median over the rounds of the time of
the other implementation divided by that of the first one: above 1, the first one is faster. Published networks are
source trees in FOLDER, which is not changed:

    git clone https://github.com/princeton-vl/RAFT FOLDER/RAFT    (needs scipy)
    git clone https://github.com/ltkong218/FastFlowNet FOLDER/FastFlowNet
    git clone https://github.com/lhao0301/pytorch-liteflownet3 FOLDER/pytorch-liteflownet3

Without a tree, the other implementation is the network of vidseg with a correlation of PyTorch operators.
`--cpu-time` measures the CPU time of the process, for a machine that runs other programs at the same time; use it with
`--threads 1`.
"""

import argparse
import fnmatch
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flow_extraction import extraction_rows
from flow_motion import motion_rows
from flow_peers import build_peer
from flow_rows import loading_rows
from machine import hardware
from ops_speed import peak_growth
from torch import Tensor, nn

from vidseg.models import create_model, list_models

Row = dict[str, Any]
SIZE = (256, 340)
QUICK_SIZE = (128, 192)
RAFT_ITERATIONS = 20


def pictures(batch: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return smooth pictures and the same ones a few pixels to the left."""
    height, width = size
    coarse = torch.rand(batch, 3, height // 8 + 2, width // 8 + 2)
    fine = nn.functional.interpolate(coarse, size=(height, width + 4), mode="bicubic").clamp(0, 1)
    return fine[..., :width].contiguous(), fine[..., 4:].contiguous()


def network(name: str, options: argparse.Namespace, **others: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network in evaluation mode, with the same weights for the same name, and its options."""
    torch.manual_seed(0)
    chosen = {"iterations": 2 if options.quick else RAFT_ITERATIONS} if name.startswith("raft") else {}
    return create_model(name, **chosen, **others).eval(), chosen


def alternate(
    first: Callable[[], object], second: Callable[[], object], options: argparse.Namespace
) -> dict[str, float]:
    """Warm up two implementations, then measure them in turns."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    calls = {"first": first, "second": second}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in range(options.rounds + 1):
        for key in sorted(calls, reverse=turn % 2 == 1):
            began = clock()
            calls[key]()
            times[key].append(clock() - began)
    pairs = list(zip(times["first"], times["second"], strict=True))[1:]
    return {
        "ms": statistics.median(own for own, _ in pairs) * 1e3,
        "other_ms": statistics.median(other for _, other in pairs) * 1e3,
        "ratio": statistics.median(other / own for own, other in pairs),
    }


@torch.no_grad()
def network_rows(options: argparse.Namespace) -> list[Row]:
    """Compare each network with the published one."""
    rows = []
    names = [name for name in list_models(task="flow") if any(fnmatch.fnmatch(name, p) for p in options.networks)]
    for name in names:
        model, chosen = network(name, options)
        source, peer = build_peer(name, model.state_dict(), options.peers, chosen)
        for batch in options.batches:
            pair = pictures(batch, QUICK_SIZE if options.quick else SIZE)
            expected = peer(*pair)
            difference = float((model(*pair).flow - expected).abs().max() / expected.abs().max())
            row = {"network": name, "batch": batch, "size": list(pair[0].shape[2:]), "other": source}
            times = alternate(lambda m=model, p=pair: m(*p), lambda f=peer, p=pair: f(*p), options)
            rows.append({**row, **times, "difference": difference})
            print(f"{name}, batch {batch}: ratio {rows[-1]['ratio']:.2f}", flush=True)
    return rows


@torch.no_grad()
def correlation_rows(options: argparse.Namespace) -> list[Row]:
    """Compare RAFT's on-demand correlations with those of all pairs."""
    rows = []
    height, width = QUICK_SIZE if options.quick else SIZE
    for name in ("raft_basic", "raft_small"):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in options.networks):
            continue
        models = {way: network(name, options, correlation=way)[0] for way in ("on_demand", "all_pairs")}
        for pixels in (1,) if options.quick else (1, 2, 4):
            size = (round(height * pixels**0.5), round(width * pixels**0.5))
            pair = pictures(1, size)
            flows = {way: model(*pair).flow for way, model in models.items()}
            difference = float((flows["on_demand"] - flows["all_pairs"]).abs().max() / flows["all_pairs"].abs().max())
            calls = {way: lambda m=model, p=pair: m(*p) for way, model in models.items()}
            row: Row = {"network": name, "size": list(size), "other": "all pairs"}
            row |= alternate(calls["on_demand"], calls["all_pairs"], options)
            row["mb"], row["other_mb"] = (peak_growth(calls[way]) / 1e6 for way in ("on_demand", "all_pairs"))
            features = [-(-side // 8) for side in size]
            row["volume_mb"] = 4 * sum((features[0] * features[1]) ** 2 / 4**level for level in range(4)) / 1e6
            rows.append({**row, "difference": difference})
            print(f"{name} on demand, {size[0]} x {size[1]}: ratio {row['ratio']:.2f}", flush=True)
    return rows


SECTIONS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "networks": network_rows,
    "correlation": correlation_rows,
    "loading": lambda options: loading_rows(options, alternate),
    "motion": motion_rows,
    "extraction": extraction_rows,
}
"""Functions from the options of the command to rows. All rows of a section have the same keys, which head its table."""


def table(rows: list[Row]) -> str:
    """Return rows as a table."""

    def text(key: str, value: Any) -> str:
        if isinstance(value, list):
            return " x ".join(map(str, value))
        if isinstance(value, float):
            return f"{value:.0e}" if key == "difference" else f"{value:.2f}" if key == "ratio" else f"{value:.1f}"
        return str(value)

    lines = [list(rows[0]), ["---" if isinstance(value, str) else "---:" for value in rows[0].values()]]
    lines += [[text(key, value) for key, value in row.items()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of source trees of published networks")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS, help="what to measure")
    parser.add_argument("--networks", nargs="+", default=["*"], help="patterns of names of networks")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="pairs of pictures per batch")
    parser.add_argument("--rounds", type=int, default=5, help="number of measured passes of each implementation")
    parser.add_argument("--quick", action="store_true", help="use small pictures and 2 iterations of RAFT")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads of PyTorch")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of elapsed time")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    options = parser.parse_args()
    if options.peers is not None and not options.peers.is_dir():
        parser.error(f"--peers: {options.peers} is not a folder")
    if options.rounds < 1 or min(options.batches) < 1:
        parser.error("--rounds and --batches must be at least 1")
    torch.set_num_threads(options.threads)
    torch.zeros(6 * 2**20)  # 25 MB that are freed: glibc then keeps freed memory of this size, as in larger programs
    machine = {
        "machine": hardware(),
        "torch": torch.__version__,
        "threads": options.threads,
        "clock": "CPU time" if options.cpu_time else "elapsed time",
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    record: dict[str, Any] = dict(machine)
    for name in options.sections:
        record[name] = SECTIONS[name](options)
        if record[name]:
            print(f"\n{table(record[name])}\n")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
