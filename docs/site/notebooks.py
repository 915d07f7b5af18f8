"""Notebooks of the tutorials: the same text and code as their pages."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["notebook_of"]

_FENCE = re.compile(r"^```(python|sh)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)\.md(#[^)]*)?\)")


def notebook_of(page: str, *, site: str = "..") -> str:
    """Return a page of Markdown as the JSON of a notebook.

    Each `python` block becomes a code cell, each `sh` block a cell of bash that stops at the first failure; the rest
    becomes Markdown cells.

    Args:
        page: text of the page.
        site: address of the folder that the links of the page are relative to.
    """
    cells: list[dict[str, Any]] = []
    position = 0
    for block in _FENCE.finditer(page):
        _add_text(cells, page[position : block.start()], site)
        language, code = block.groups()
        _add(cells, "code", code if language == "python" else f"%%bash\nset -e\n{code}")
        position = block.end()
    _add_text(cells, page[position:], site)
    content = {
        "cells": cells,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _add_text(cells: list[dict[str, Any]], text: str, site: str) -> None:
    if text.strip():
        _add(cells, "markdown", _LINK.sub(rf"]({site}/\1.html\2)", text))


def _add(cells: list[dict[str, Any]], kind: str, text: str) -> None:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": text.strip("\n")}
    cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
