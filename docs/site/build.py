"""Build the documentation site: `make docs`, or `python docs/site/build.py [--out FOLDER]`.

The pages are those of docs/, the README as the home page, and the generated ones: the API reference, the commands,
the data sets and the model zoo. Each tutorial is also written as a notebook. A link to a page that does not exist, and
a page that is not in the navigation, are errors.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from api import api_pages
from commands import command_pages
from datasets import dataset_pages
from notebooks import notebook_of
from zoo import zoo_page

ROOT = Path(__file__).resolve().parents[2]
ASSETS = {".png", ".svg", ".css", ".bib"}


def main() -> int:
    """Write OUT/pages and OUT/mkdocs.yml, and build OUT/site with zensical."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs", help="folder; the site is its folder site/")
    out: Path = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    pages = out / "pages"
    collect(pages)
    config = configuration(pages)
    (out / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    if missing := sorted(pages_of(pages) - set(named(config["nav"]))):
        print(f"docs/site/mkdocs.yml: not in nav: {', '.join(missing)}", file=sys.stderr)
        return 1
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({} if sys.stdout.isatty() else {"NO_COLOR": "1"})
    command = [Path(sys.executable).parent / "zensical", "build", "--strict", "--config-file", out / "mkdocs.yml"]
    if (status := subprocess.run(command, env=environment, check=False).returncode) == 0:
        print(out / "site/index.html")
    return status


def collect(pages: Path) -> None:
    """Copy the written pages to a folder, and write the generated ones."""
    for source in sorted((ROOT / "docs").rglob("*")):
        if source.suffix in {".md", *ASSETS} and "site" not in source.relative_to(ROOT / "docs").parts:
            write(pages / source.relative_to(ROOT / "docs"), source)
    for name, target in (("README.md", "index.md"), ("CHANGELOG.md",) * 2, ("CONTRIBUTING.md",) * 2):
        write(pages / target, ROOT / name)
    shutil.copyfile(ROOT / "CITATION.cff", pages / "CITATION.cff")
    for tutorial in sorted((pages / "tutorials").glob("*.md")):
        text = tutorial.read_text()
        tutorial.with_suffix(".ipynb").write_text(notebook_of(text))
        tutorial.write_text(f"{text.rstrip()}\n\nThis page as a [notebook]({tutorial.stem}.ipynb).\n")
    generated_pages = {
        "api": api_pages(),
        "commands": command_pages(),
        "datasets": dataset_pages(),
        "": {"zoo.md": zoo_page()},
    }
    for folder, generated in generated_pages.items():
        (pages / folder).mkdir(exist_ok=True)
        for name, text in generated.items():
            (pages / folder / name).write_text(text)


def write(target: Path, source: Path) -> None:
    """Copy a file; in a page, links into docs/ and to the README lead to their places on the site."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".md":
        shutil.copyfile(source, target)
        return
    text = source.read_text()
    text = re.sub(r"\]\((\.\./)*README\.md", "](index.md", text)
    target.write_text(re.sub(r"\]\(docs/", "](", text))


def configuration(pages: Path) -> dict[str, Any]:
    """Return mkdocs.yml with each `folder/*` of the navigation as the list of its pages."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "docs/site/mkdocs.yml").read_text())
    for entry in config["nav"]:
        for title, value in entry.items():
            if isinstance(value, str) and value.endswith("/*"):
                folder = value.removesuffix("/*")
                names = sorted(path.name for path in (pages / folder).glob("*.md") if path.name != "index.md")
                entry[title] = [f"{folder}/index.md", *(f"{folder}/{name}" for name in names)]
    config["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT)]
    return config


def pages_of(folder: Path) -> set[str]:
    """Paths of all pages, relative to their folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


def named(entries: Any) -> list[str]:
    """Return the pages of a navigation."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in named(value)]


if __name__ == "__main__":
    sys.exit(main())
