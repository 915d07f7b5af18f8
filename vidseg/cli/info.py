"""Description of a database, a data set or a checkpoint (`vidseg info`)."""

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Describe a frame database, a data set or a checkpoint (.pth, .safetensors)."""

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """A frames.db or its folder, the folder of a data set, or a checkpoint."""
    json: bool = False
    """Print one JSON object instead of text."""

    def run(self) -> int:
        """Read the file or folder and print its description."""
        path = Path(self.path)
        if not path.exists():
            raise FileNotFoundError(f"{path}: file or folder not found")
        if path.suffix in {".pth", ".pt", ".safetensors"}:
            facts = _checkpoint(path)
        elif path.is_dir() and not (path / "frames.db").is_file():
            facts = _dataset(path)
        else:
            facts = _database(path)
        if self.json:
            print(json_format.dumps(facts, indent=1))
        else:
            width = max(map(len, facts))
            print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
        return 0


def _database(path: Path) -> dict[str, Any]:
    import numpy as np

    from vidseg.frames import FrameDatabase

    database = FrameDatabase(path)
    height, width = database.frame_size
    published = "format" not in database.meta
    facts: dict[str, Any] = {
        "kind": "frame database",
        "form": "dataset2database 1.2 (`vidseg check --index` upgrades it)" if published else database.meta["format"],
        "video": database.name,
        "frames": len(database),
        "size": f"{width}x{height}",
        "levels": ", ".join(f"1/{2**level}" for level in range(1, database.levels + 1)) or "none",
        "bytes": database.path.stat().st_size,
        "bytes per frame": round(database.path.stat().st_size / len(database)),
    }
    times = database.timestamps
    if times is not None:
        steps = np.diff(times)
        steady = len(steps) == 0 or float(steps.max() - steps.min()) < 2e-3
        facts["times"] = f"{times[0]:.3f} to {times[-1]:.3f} s, {'constant' if steady else 'variable'} rate"
    hidden = {"format", "frames", "levels", "width", "height"}
    facts |= {name.replace("_", " "): value for name, value in database.meta.items() if name not in hidden}
    return facts


def _dataset(path: Path) -> dict[str, Any]:
    from vidseg.labels import open_dataset

    data = open_dataset(path)
    return {
        "kind": "data set",
        "videos": len(data),
        "classes": len(data.classes),
        "class names": ", ".join(data.classes[:20]) + (" ..." if len(data.classes) > 20 else ""),
        "splits": ", ".join(data.splits) or "none",
        "frames": int(data.frames.sum()),
        "frames per video": f"{data.frames.min()} to {data.frames.max()}",
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from vidseg.models import read_state

    state = read_state(path)
    values = sum(tensor.numel() for tensor in state.values())
    return {
        "kind": "checkpoint",
        "tensors": len(state),
        "values": values,
        "first keys": ", ".join(list(state)[:4]),
        "last keys": ", ".join(list(state)[-2:]),
    }
