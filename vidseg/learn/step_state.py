"""Steps that are done once: their state in a file, skipped when nothing they depend on has changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import write_text
from vidseg.labels.json_files import read_json

__all__ = ["Steps", "fingerprint"]

STATE = "learn.json"


def fingerprint(content: Any) -> str:
    """Return a digest of plain data, equal for equal data."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Steps:
    """State of the steps in `<folder>/learn.json`.

    A step is done again if its inputs changed, if a file it left is missing, or with `overwrite`. A step that was
    interrupted learns it from the argument and continues.

    Args:
        folder: of the results; created if missing.
        overwrite: do all steps again.

    Raises:
        ValueError: the state in the folder cannot be read.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.path = folder / STATE
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}
        if self.path.is_file() and not overwrite:
            content = read_json(self.path)
            if not isinstance(content, dict) or not isinstance(content.get("steps"), dict):
                raise ValueError(f"{self.path}: not the state of `vidseg learn`; remove it, or choose another --out")
            self._known = content["steps"]

    def run(
        self,
        name: str,
        inputs: Any,
        work: Callable[[bool], Mapping[str, Any]],
        *,
        files: tuple[Path, ...] = (),
    ) -> dict[str, Any]:
        """Do a step unless it is finished; returns what it returned then.

        Args:
            name: of the step.
            inputs: plain data that the result depends on.
            work: does the step and returns plain data; its argument says whether an interrupted step of the same inputs
                is continued.
            files: that the step leaves; if one is missing, the step is done again.
        """
        digest = fingerprint(inputs)
        known = self._known.get(name)
        known = known if isinstance(known, dict) and known.get("inputs") == digest else {}
        if known.get("done") and all(path.exists() for path in files):
            return {**known["result"], "skipped": True}
        continued = known.get("done") is False
        self._write(name, {"inputs": digest, "done": False})
        began = time.monotonic()
        result = json.loads(json.dumps(dict(work(continued)), default=str))
        self._write(name, {"inputs": digest, "done": True, "seconds": time.monotonic() - began, "result": result})
        return {**result, "skipped": False}

    def seconds(self, name: str) -> float:
        """Return how long a finished step took, in its last part if it was interrupted."""
        return float(self._known[name].get("seconds", 0.0))

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        self._known[name] = entry
        write_text(self.path, json.dumps({"steps": self._known}, indent=1, ensure_ascii=False) + "\n")
