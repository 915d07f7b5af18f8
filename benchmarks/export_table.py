"""Export of every registered network into every format: difference from PyTorch, agreement of decisions, time.

    python benchmarks/export_table.py --formats onnx openvino --precisions fp32 fp16 --networks 'srtg_*' etad+pixels

int8 is dynamic quantization. TensorRT is a check of operators. A name with +pixels is a detector with an encoder.
Without --networks one network of each factory is exported; --all exports all registered networks. Networks have few
channels and blocks, since an export concerns operators, not sizes.
"""

import argparse
import fnmatch
import itertools
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from export_networks import load_small, network_options, shallow_registry
from test_export import representatives

from vidseg.engine.trained import TrainedModel
from vidseg.export import FORMATS, export_model
from vidseg.export.exporting import describe, trace
from vidseg.export.onnx_format import make_program
from vidseg.export.quantization import quantize_model
from vidseg.export.tensorrt_format import check_operators
from vidseg.models import list_models
from vidseg.tasks import load_trained


def load(name: str, folder: Path) -> TrainedModel:
    """A small network; <detector>+pixels: with an encoder of snippets in front."""
    detector, plus, _ = name.partition("+")
    if not plus:
        return load_small(name, folder)
    from serve_models import detection

    options = tuple(
        f"{option}={value}" for option, value in network_options(detector).items() if option != "in_features"
    )
    path = detection(folder, pixels=True, network=detector, options=options)
    return load_trained(path)


def measure(name: str, form: str, precision: str, folder: Path) -> dict:
    """Export one network; the row of the table."""
    row = {"network": name, "format": form, "precision": precision}
    began = time.perf_counter()
    try:
        trained = load(name, folder)
        if form == "tensorrt":
            lacking = lacking_operators(trained, precision)
            return row | {"lacking": lacking, "seconds": time.perf_counter() - began}
        if precision == "int8":
            found = quantize_model(trained, dynamic=True)
        else:
            found = export_model(trained, to=form, precision=precision)
    except (ValueError, RuntimeError, ImportError) as error:
        return row | {"error": str(error), "seconds": time.perf_counter() - began}
    variable = [size for spec in found.artifact.inputs[:1] for size in spec.shape if isinstance(size, str)]
    row |= {"difference": found.replay.difference, "agreement": found.replay.agreement, "variable": variable}
    return row | {"seconds": time.perf_counter() - began}


def lacking_operators(trained: TrainedModel, precision: str) -> list[str]:
    """Operators of the ONNX graph that TensorRT cannot parse; an engine is not built."""
    program, specs, flat = trace(trained, precision=precision)
    artifact = describe(trained, "tensorrt", precision, specs, flat)
    return check_operators(make_program(program, artifact).model)


def line(row: dict) -> str:
    """A row as text."""
    head = f"{row['network']:32} {row['format']:9} {row['precision']} {row['seconds']:6.1f} s"
    if "error" in row:
        return f"{head}  {row['error'][:300]}"
    if "lacking" in row:
        return f"{head}  lacks {', '.join(row['lacking']) or 'no operator'}"
    figures = f"difference {row['difference']:.1e}  agreement {row['agreement']:.4f}"
    return f"{head}  {figures}  variable {', '.join(row['variable'])}"


def main() -> int:
    """Print the table; exit status 1 if an export failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=["onnx"])
    parser.add_argument("--precisions", nargs="+", default=["fp32"], help="those that a format lacks are left out")
    parser.add_argument("--networks", nargs="+", help="patterns of names")
    parser.add_argument("--all", action="store_true", help="every registered network")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    names = list_models() if options.all or options.networks else representatives()
    if options.networks:
        names = [name for name in names if any(fnmatch.fnmatch(name, one) for one in options.networks)]
        names += [name for name in options.networks if "+" in name]
    rows = []
    with shallow_registry(), tempfile.TemporaryDirectory() as folder:
        for name, form, precision in itertools.product(names, options.formats, options.precisions):
            if precision in FORMATS[form].precisions or (form, precision) == ("onnx", "int8"):
                rows.append(measure(name, form, precision, Path(folder)))
                print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
