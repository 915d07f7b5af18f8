"""Export of every registered network into every format: difference from PyTorch, agreement of decisions, time.

    python benchmarks/export_table.py --formats onnx openvino --networks 'srtg_*'

Without --networks one network of each factory is exported; --all exports all registered networks. Networks have few
channels and blocks, since an export concerns operators, not sizes.
"""

import argparse
import fnmatch
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from export_networks import load_small, shallow_registry
from test_export import representatives

from vidseg.export import export_model
from vidseg.models import list_models


def measure(name: str, form: str, precision: str, folder: Path) -> dict:
    """Export one network; the row of the table."""
    row = {"network": name, "format": form, "precision": precision}
    began = time.perf_counter()
    try:
        found = export_model(load_small(name, folder), to=form, precision=precision)
    except (ValueError, RuntimeError, ImportError) as error:
        return row | {"error": str(error), "seconds": time.perf_counter() - began}
    variable = [size for spec in found.artifact.inputs[:1] for size in spec.shape if isinstance(size, str)]
    row |= {"difference": found.replay.difference, "agreement": found.replay.agreement, "variable": variable}
    return row | {"seconds": time.perf_counter() - began}


def main() -> int:
    """Print the table; exit status 1 if an export failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=["onnx"])
    parser.add_argument("--precision", default="fp32")
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
    rows = []
    with shallow_registry(), tempfile.TemporaryDirectory() as folder:
        for name in names:
            for form in options.formats:
                row = measure(name, form, options.precision, Path(folder))
                rows.append(row)
                if "error" in row:
                    print(f"{name:32} {form:9} {row['seconds']:6.1f} s  {row['error'][:300]}", flush=True)
                else:
                    print(
                        f"{name:32} {form:9} {row['seconds']:6.1f} s  difference {row['difference']:.1e}  agreement "
                        f"{row['agreement']:.4f}  variable {', '.join(row['variable'])}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
