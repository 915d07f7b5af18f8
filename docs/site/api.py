"""Pages of the API reference: one per package, with every public name, filled by mkdocstrings."""

from __future__ import annotations

import importlib

import vidseg

__all__ = ["api_pages"]


def api_pages() -> dict[str, str]:
    """Return the text of each page by its file name: index.md for `vidseg`, then one per package."""
    pages = {}
    for package in sorted(vidseg.__dir__()):
        if package.startswith("_") or package in vidseg.__all__:
            continue
        names = list(getattr(importlib.import_module(f"vidseg.{package}"), "__all__", ()))
        if names:
            pages[f"{package}.md"] = _page(f"vidseg.{package}", names)
    rows = [f"| [{page.removesuffix('.md')}]({page}) | {_summary(page.removesuffix('.md'))} |" for page in pages]
    pages["index.md"] = "\n".join(
        [
            "# API",
            "",
            "| package | content |",
            "| --- | --- |",
            *rows,
            "",
            "## vidseg",
            "",
            "These names are also in the package `vidseg` itself: "
            + ", ".join(f"[`{name}`]({_home(name)}.md)" for name in vidseg.__all__)
            + ".",
            "",
        ]
    )
    return pages


def _page(package: str, names: list[str]) -> str:
    lines = [f"# {package}", "", (importlib.import_module(package).__doc__ or "").strip(), ""]
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        lines += [f"::: {package}.{name}", ""]
    return "\n".join(lines)


def _summary(package: str) -> str:
    return (importlib.import_module(f"vidseg.{package}").__doc__ or "").strip().splitlines()[0]


def _home(name: str) -> str:
    """Package in whose page a name of `vidseg` itself is described."""
    return str(getattr(vidseg, name).__module__).split(".")[1]
