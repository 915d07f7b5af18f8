"""JSON files: whatever is wrong with one from elsewhere becomes a ValueError that names it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import write_text

__all__ = ["json_number", "json_text", "read_json", "write_json"]


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the entry {next(name for name in names if names.count(name) > 1)!r:.80} occurs twice")
    return content


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8 or not JSON, is nested too deeply, has text that is not Unicode, or has an entry
            twice, of which a reader would silently drop one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_no_repetition)
        if "\\ud" in text.lower():  # half of a surrogate pair has no UTF-8 form
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: not valid JSON (a text with half of a surrogate pair)") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not valid JSON (nested too deeply)") from error
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file under another name and rename it, so that it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def json_text(value: Any, what: str) -> str:
    """Return a text.

    Raises:
        ValueError: `value` is something else; the message has `what`, such as "label".
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r:.60}, expected a text")
    return value


def json_number(value: Any, what: str) -> float:
    """Return a finite number; published files also have numbers as texts, such as "18.6".

    Raises:
        ValueError: `value` is something else; the message has `what`.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        number = math.nan
    except OverflowError:
        raise ValueError(f"{what} is an integer too large for a number of seconds or frames") from None
    if not math.isfinite(number):
        raise ValueError(f"{what} is {value!r:.60}, expected a finite number")
    return number
