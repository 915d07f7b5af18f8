"""Top-1 of int8 after training and in training, for a network whose channels have unequal ranges.

    python benchmarks/quantized_training.py demo/run --out demo/int8 [--spread 5] [--epochs 3] [--json]

Channels that only one layer reads are multiplied by factors from 2^-spread to 2^spread, drawn with a fixed seed, and
the weights of their readers are divided by them. Such a network computes what it did in float32 (Nagel et al.,
Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.1), but one scale for all
channels of an activation suits few of them, as is usual for mobile networks. RUN is a recognition network with ReLU
between a batch norm and the next convolution, such as that of `make demo`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from vidseg.cli.main import main as vidseg
from vidseg.engine.trained import TrainedModel
from vidseg.export.channel_groups import find_channel_groups
from vidseg.export.exporting import trace
from vidseg.export.pruning import Pruned, write_pruned
from vidseg.export.quantization import quantize_model
from vidseg.export.replay import LIMITS
from vidseg.tasks import load_trained


def spread_channels(trained: TrainedModel, spread: float) -> dict[str, Tensor]:
    """Return weights of the same function whose channels have unequal ranges."""
    draw = torch.Generator().manual_seed(0)
    state = {name: value.clone() for name, value in trained.model.state_dict().items()}
    for group in find_channel_groups(trace(trained)[0]):
        along = [name.removeprefix("model.") for name in group.along]
        scales = [name for name in along if name.endswith("weight") and state[name].dim() == 1]
        if not scales:
            continue
        factors = 2 ** ((2 * torch.rand(group.channels, generator=draw) - 1) * spread)
        for name in (scales[0], scales[0].removesuffix("weight") + "bias"):
            state[name] *= factors
        for name in (name.removeprefix("model.") for name in group.readers):
            state[name] /= factors.view(1, -1, *[1] * (state[name].dim() - 2))
    return state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a recognition run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the networks")
    parser.add_argument("--spread", type=float, default=5.0, help="logarithm of the largest factor")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of training with rounded values")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_trained(options.run)
    state = spread_channels(trained, options.spread)
    weights = write_pruned(trained, Pruned(state, {}, 0, 0, (0, 0)), options.out / "spread.pth")
    spread = load_trained(weights)
    LIMITS["int8"] = (float("inf"), 0.0)  # the loss of accuracy is what is measured
    after = quantize_model(spread, options.out / "after.onnx")
    words = ["compress", str(weights), "--quantize", "int8", "--fine-tune", str(options.epochs), "--device", "cpu"]
    status = vidseg([*words, "--out", str(options.out / "in_training")])
    if status:
        return status
    tuned = options.out / "in_training"
    rows = {
        "float32": trained,
        "float32, unequal channels": spread,
        "int8 after training": load_trained(after.path),
        f"int8 in training, {options.epochs} epochs": load_trained(tuned),
        f"int8 in training, {options.epochs} epochs, ONNX": load_trained(tuned / f"export/{trained.network}_int8.onnx"),
    }
    scores = {name: one.main_scores() for name, one in rows.items()}
    if options.json:
        print(json.dumps(scores))
        return 0
    for name, values in scores.items():
        print(f"{name:45}", "  ".join(f"{score} {value:.3f}" for score, value in values.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
