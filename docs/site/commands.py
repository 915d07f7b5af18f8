"""Pages of the command reference, from the dataclasses that the commands are parsed with."""

from __future__ import annotations

import argparse
import importlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import tyro

from vidseg.cli.converter import converter_files, load_converter
from vidseg.cli.main import COMMANDS
from vidseg.cli.parsing import option_registry
from vidseg.cli.train import NAMES

__all__ = ["command_pages"]


def command_pages() -> dict[str, str]:
    """Return the text of each page by its file name: one page per command, and index.md."""
    pages = {"index.md": _index()}
    for name, summary in COMMANDS.items():
        pages[f"{name}.md"] = _page(name, summary)
    return pages


def _index() -> str:
    rows = [f"| [{name}]({name}.md) | {summary} |" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "# Commands",
            "",
            "`vidseg COMMAND --help` prints the same options in a terminal. Results go to stdout, logs to stderr. The",
            "exit status is 0, 1 if some items failed (each is named), and 2 for wrong use.",
            "",
            "| command | does |",
            "| --- | --- |",
            *rows,
            "",
            "`dataset2database SRC DST` is another name of [vidseg convert](convert.md).",
            "",
        ]
    )


def _page(name: str, summary: str) -> str:
    module = importlib.import_module(f"vidseg.cli.{name.replace('-', '_')}")
    lines = [f"# vidseg {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
    if name == "train":
        lines += ["Further names and their own defaults: " + ", ".join(f"`{word}`" for word in sorted(NAMES)) + ".", ""]
        for words, title in (
            ([], "vidseg train"),
            (["segmentation"], "vidseg train segmentation"),
            (["stream"], "vidseg train stream"),
            (["detection"], "vidseg train detection"),
        ):
            prepared = module.prepare(words)
            lines += [f"## {title}", "", *_options(_parser(title, prepared.command, prepared.default), level=3)]
    elif name == "labels":
        lines += _options(_parser("vidseg labels", module.Command, None), level=2)
        for word in converter_files():
            title = f"vidseg labels {word}"
            lines += [f"## {title}", "", *_options(_parser(title, load_converter(word), None), level=3)]
    elif hasattr(module, "prepare"):
        prepared = module.prepare([])
        lines += _options(_parser(f"vidseg {name}", prepared.command, prepared.default), level=2)
    else:
        lines += _options(_parser(f"vidseg {name}", module.Command, None), level=2)
    return "\n".join(lines)


def _parser(program: str, command: Any, default: Any) -> argparse.ArgumentParser:
    chosen = {} if default is None else {"default": default}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro has no other public view of the options
        return tyro.extras.get_parser(
            command, prog=program, config=(tyro.conf.OmitArgPrefixes,), registry=option_registry(), **chosen
        )


def _options(parser: argparse.ArgumentParser, *, level: int) -> list[str]:
    """Lines of a page: description, then one table per group of options, then the subcommands."""
    lines = [_text(parser.description or ""), ""]
    below: list[str] = []
    for group in parser._action_groups:
        rows = []
        for action in group._group_actions:
            if isinstance(action.choices, Mapping):  # subcommands; tyro has an argparse of its own
                for word, child in action.choices.items():
                    below += [f"{'#' * level} {parser.prog} {word}", "", *_options(child, level=level + 1)]
            elif "--help" not in action.option_strings:
                rows.append(f"| {_spelling(action)} | {_cell(str(action.help or ''))} |")
        if rows:
            title = (group.title or "options").removesuffix(" options")
            title = {"positional arguments": "arguments", "options": "options"}.get(title, f"{title} options")
            lines += [f"{'#' * level} {title[0].upper()}{title[1:]}", ""]
            if group.description:
                lines += [_text(group.description), ""]
            lines += [
                f"| {title.split()[0] if title == 'arguments' else 'option'} | meaning |",
                "| --- | --- |",
                *rows,
                "",
            ]
    return lines + below


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar
    if metavar is None and action.choices:
        metavar = "{" + ",".join(map(str, action.choices)) + "}"
    words = metavar if isinstance(metavar, str) else " ".join(metavar or ())
    spelled = ", ".join(action.option_strings)
    return "`" + _plain(f"{spelled} {words}".strip()).replace("|", "\\|") + "`"


def _plain(text: str) -> str:
    """Without the colors that tyro writes for a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m|\[/?[a-z_ ]+\]", "", text)


def _text(text: str) -> str:
    """Help text as Markdown: lines that were wrapped are joined, and marks of Markdown outside of code are escaped."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"\n(?!\n)[ ]*", "\n", _plain(text)).strip())
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return " ".join(_text(text).split()).replace("|", "\\|")
