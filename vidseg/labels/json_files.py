"""Reading of JSON files: errors name the file, and a key that occurs twice is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json"]


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the entry {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return content


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8 or not JSON, or an object has an entry twice, of which a reader would
            silently drop one.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_no_repetition)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
