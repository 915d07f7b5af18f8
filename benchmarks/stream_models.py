"""Parameters and operations of the networks in the tables of ETESVS and later papers.

    python benchmarks/stream_models.py [--json]

Networks are built and run on the meta device, without values. A row may be the sum of several networks. "published"
columns are the values of the tables, "counted" the values of vidseg's networks by the same rules. Operations are for
the number of frames in "frames", by the rules of the published tool: multiply-adds of convolutions (with biases) and
linear layers (without biases), twice the elements of batch norms, elements of ReLU6, inputs of poolings; recurrent
layers count 0, although an LSTM of 1280 has 13 million multiply-adds per frame. For networks on features, the tables
count multiply-adds for 1000 columns and print a hundredth of them as those of one. "multiply-adds" counts convolutions,
linear and recurrent layers only. Exit status 1 if a comparable count differs.
"""

import json
import sys
from dataclasses import asdict, dataclass, field

import torch
import tyro
from torch import Tensor, nn

from vidseg.models import create_model, model_input_spec, model_task
from vidseg.models.etesvs import _ConvLstm
from vidseg.models.i3d import I3d
from vidseg.models.mobilenet_tsm import MobileNetTsm

CLASSES = 11  # classes of GTEA
FEATURES = 2048  # feature width, for networks on features


@dataclass
class Options:
    """Count parameters and operations of streaming networks."""

    json: bool = False
    """Print JSON rows instead of a table."""


@dataclass(frozen=True)
class Row:
    """Row of a published table.

    Attributes:
        row: name of the row in the table.
        network: vidseg's name of the network, or several names joined by " + ".
        options: options of the network.
        published: trained parameters of the table or of the published code; None: no exact value is published.
        pixels: height and width for which operations are counted; the published script uses 244, not 224.
        operations: number of operations for `frames` or `columns`; None: no exact value is published.
        remark: note on the row.
        frames: number of frames of the operation count.
        columns: number of feature columns of the operation count, for networks on features; None: not counted.
        classes: number of classes.
        buffers: count running means and variances as parameters, as PaddlePaddle does.
    """

    row: str
    network: str
    published: int | None
    remark: str
    options: dict[str, object] = field(default_factory=dict)
    pixels: int | None = None
    operations: int | None = None
    frames: int = 1
    columns: int | None = None
    classes: int = CLASSES
    buffers: bool = False


ROWS = (
    Row("ssd", "i3d_rgb", 12_298_539, "I3D on RGB, not SSD", {}, 224, 27_832_209_856, 16),
    Row("bmn", "i3d_rgb + mstcn", 13_095_319, "ssd and mstcn, not BMN; printed: 28.6235698 G", {}, 224, None, 16, 1000),
    Row("two_stream-i3d", "i3d_rgb + i3d_flow", 24_575_126, "printed: 261.01912 G", {}, 244, None, 64),
    Row("i3d+mstcn", "i3d_rgb + i3d_flow + mstcn", 25_371_906, ""),
    Row("i3d+asformer", "i3d_rgb + i3d_flow + asformer", 25_705_986, ""),
    Row(
        "tsm",
        "tsm_r50",
        24_380_752,
        "400 classes; means and variances of norms counted as parameters",
        classes=400,
        buffers=True,
    ),
    Row("mstcn", "mstcn", 796_780, "printed: 0.791359944 G", columns=1000),
    Row("asformer", "asformer", 1_130_860, ""),
    Row("asrf", "asrf", 1_292_784, "parameters printed as 1.3 M", operations=1_283_328_000, columns=1000),
    Row("mobinetv2", "mobilenet_v2_tsm_frames", 2_237_963, "no memory", {}, 244, 402_186_176),
    Row(
        "mobiV2+ms",
        "etesvs",
        15_518_241,
        "FMSF of the table is for one frame, FSF is FMSF / 25",
        {"shift_division": 30},
        244,
        402_349_003,
    ),
    Row("mobiV2+ms", "etesvs", 15_518_241, "the same at the input size given in the table", {}, 224, 319_195_915),
    Row("ETESVS, last", "etesvs_convlstm", 3_563_564, "code published with the table", {}, 224, 360_276_758),
    Row("ETESVS, last", "etesvs_convlstm", 3_563_564, "", {}, 244, 455_905_046),
    Row("SETE", "memory_tcn", None, "printed: 2.372 M, 10.213 G for 32 frames", {"norm": "dropout"}, 224),
    Row("Transeger", "transeger", 38_444_939, "25.3 M of 38.4 M are the token embedding"),
    Row("SVTAS-RL", "svtas_rl", 95_170_687, "without 512 rotary frequencies (not trained)"),
)


def counted_operations(model: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """Return operations on (1, C, T, H, W) or (1, D, L) by the published rules for networks on pixels, and
    multiply-adds."""
    rules = multiply_adds = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal rules, multiply_adds
        if module is head:  # in the published code a linear layer on the mean of all maps: counted once, without biases
            rules += module.weight.numel()
            multiply_adds += module.weight.numel()
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            products = output.numel() * module.weight[0].numel()
            rules += products + (output.numel() if module.bias is not None else 0)
            multiply_adds += products
        elif isinstance(module, nn.Linear):
            rules += output.numel() * module.in_features
            multiply_adds += output.numel() * module.in_features
        elif isinstance(module, nn.LSTM):
            weights = sum(value.numel() for name, value in module.named_parameters() if name.startswith("weight"))
            multiply_adds += weights * inputs[0].shape[0] * inputs[0].shape[1]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            rules += 2 * output.numel()
        elif isinstance(module, nn.ReLU6):
            rules += output.numel()
        elif isinstance(module, MobileNetTsm):
            rules += output[1].numel()  # spatial averaging
        elif isinstance(module, _ConvLstm):
            rules += inputs[0].numel()  # and of its hidden states, which have the size of its inputs
        elif module is last:  # averaging of its maps, then of the mean of each channel
            rules += output.numel() + output.shape[1]

    head, last = (model.logits["conv3d"], model.Mixed_5c) if isinstance(model, I3d) else (None, None)
    handles = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return rules, multiply_adds


def measure(row: Row) -> dict[str, object]:
    """Build the networks of a row and count parameters and operations."""
    parameters = operations = multiply_adds = 0
    for name in row.network.split(" + "):
        task = model_task(name)
        options = {"in_features": FEATURES} if task == "segmentation" else {}
        with torch.device("meta"):
            model = create_model(name, num_classes=row.classes, **options, **row.options)
            if task == "segmentation" and row.columns is not None:
                _, products = counted_operations(model, torch.empty(1, FEATURES, row.columns))
                operations, multiply_adds = operations + products, multiply_adds + products
            elif task != "segmentation" and row.pixels is not None:
                clip = torch.empty(1, model_input_spec(name).channels, row.frames, row.pixels, row.pixels)
                found = counted_operations(model, clip)
                operations, multiply_adds = operations + found[0], multiply_adds + found[1]
        parameters += sum(value.numel() for value in model.parameters() if value.requires_grad)
        if row.buffers:
            parameters += sum(value.numel() for value in model.buffers() if value.is_floating_point())
    counts = (("parameters", row.published, parameters), ("operations", row.operations, operations))
    return {
        **asdict(row),
        "parameters": parameters,
        "counted_operations": operations or None,
        "multiply_adds": multiply_adds or None,
        "wrong": [name for name, published, counted in counts if published is not None and published != counted],
    }


def shown(value: object) -> str:
    return f"{value:,.0f}".replace(",", " ") if isinstance(value, int | float) else "-"


def main(options: Options) -> int:
    rows = [measure(row) for row in ROWS]
    failed = any(row["wrong"] for row in rows)
    if options.json:
        print("\n".join(json.dumps(row) for row in rows))
        return int(failed)
    columns = ("row", "network", "parameters", "published", "pixels", "frames", "columns", "operations", "published")
    columns += ("multiply-adds",)
    lines = [columns]
    for row in rows:
        lines.append(
            (
                str(row["row"]),
                str(row["network"]),
                shown(row["parameters"]),
                shown(row["published"]),
                shown(row["pixels"]),
                shown(None if row["pixels"] is None else row["frames"]),
                shown(row["columns"]),
                shown(row["counted_operations"]),
                shown(row["operations"]),
                shown(row["multiply_adds"]),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    remarks = ["remark", *(str(row["remark"]) for row in rows)]
    for line, remark in zip(lines, remarks, strict=True):
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join([*cells, remark]).rstrip())
    for row in rows:
        if row["wrong"]:
            print(f"{row['row']}: {', '.join(map(str, row['wrong']))} differ from the published count", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
