"""Every code block of the README and the docs runs, as a reader would run it, in a folder with `videos/` and `data/`.

Blocks marked `python` run in order as one session for each file, `sh` blocks in bash; `text` blocks are only shown.
Tutorials run as the notebooks that `make docs` writes.
"""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vidseg
from vidseg.cli.main import COMMANDS
from vidseg.cli.parsing import parse
from vidseg.convert import convert_videos
from vidseg.models import list_models

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs/site"))

from commands import command_pages  # noqa: E402
from datasets import DATASETS, dataset_pages  # noqa: E402
from notebooks import notebook_of  # noqa: E402
from zoo import zoo_page  # noqa: E402

PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
TUTORIALS = [page for page in PAGES if page.startswith("docs/tutorials/")]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str, int]]:
    """(language, code, first line) of each fenced block."""
    text = (ROOT / page).read_text()
    return [(match[1], match[2], text[: match.start()].count("\n") + 2) for match in BLOCK.finditer(text)]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory, make_video) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    for index, label in enumerate(("run", "jump", "run", "jump"), start=1):
        make_video(folder / f"videos/{label}/clip_{index}.mp4", frames=24, size=(96, 128))
    assert convert_videos(folder / "videos", folder / "data", workers=1).ok
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS])
def test_code_blocks_run(page, workplace, tmp_path, monkeypatch):
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    session: dict[str, object] = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        assert language in {"python", "sh", "text", ""}, f"{page}:{line}: a block marked {language!r}"
        if language == "python":
            exec(compile("\n" * (line - 1) + code, str(ROOT / page), "exec"), session)
        elif language == "sh":
            result = subprocess.run(["bash", "-e", "-c", code], capture_output=True, text=True)
            assert result.returncode == 0, (
                f"{page}:{line}: exit status {result.returncode}\n{result.stdout}{result.stderr}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_tutorials_run_as_notebooks(page, workplace, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.reads(notebook_of((ROOT / page).read_text()), as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": tmp_path}}).execute()
    assert any(cell.cell_type == "code" for cell in notebook.cells)


def test_a_failing_cell_of_a_notebook_is_an_error(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.reads(notebook_of("# Page\n\n```sh\nfalse\ntrue\n```\n"), as_version=4)
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target} does not exist"


def test_the_command_reference_has_every_option():
    pages = command_pages()
    assert set(COMMANDS) == {page.removesuffix(".md") for page in pages} - {"index"}
    for page, option in (
        ("train.md", "`--freeze-backbone, --no-freeze-backbone`"),
        ("labels.md", "## vidseg labels split"),
        ("predict.md", "`--weights"),
        ("plot.md", "## vidseg plot confusion"),
    ):
        assert option in pages[page]


def test_the_model_zoo_has_every_network():
    page = zoo_page()
    assert [name for name in list_models() if f"| `{name}` |" not in page] == []


def test_every_converter_has_a_page_of_its_data_set():
    assert {path.stem for path in (ROOT / "converters").glob("*.py")} == {data.name for data in DATASETS}
    assert {page.removesuffix(".md") for page in dataset_pages()} == {"index", *(data.name for data in DATASETS)}


@pytest.mark.parametrize("data", DATASETS, ids=lambda data: data.name)
def test_the_commands_of_a_data_set_have_right_options(data):
    for line in data.commands:
        name, *words = line.removeprefix("vidseg ").split()
        module = importlib.import_module(f"vidseg.cli.{name.replace('-', '_')}")
        if hasattr(module, "prepare"):
            prepared = module.prepare(words)
            parse(name, prepared.command, prepared.words, default=prepared.default)
        else:
            parse(name, module.Command, words)


@pytest.mark.parametrize("data", DATASETS, ids=lambda data: data.name)
def test_the_page_of_a_data_set_has_license_layout_disk_and_time(data):
    page = dataset_pages()[f"{data.name}.md"]
    facts = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", page, re.MULTILINE))
    names = {"content", "source", "license", "download", "annotation", "frame databases", "conversion"}
    assert names <= facts.keys()
    assert data.license in facts["license"] and data.license_page in facts["license"]
    assert data.license_page.startswith("https://") or "see its page" in data.license
    assert all(path in page for path, _ in data.layout) and all(line in page for line in data.commands)


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "docs/site/mkdocs.yml").read_text())
    text = str(config["nav"])
    groups = re.findall(r"([a-z]+)/\*", text)
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert [page for page in pages if f"'{page}'" not in text and page.split("/")[0] not in groups] == []


def test_every_public_function_has_an_example():
    code = "".join(text for page in PAGES for language, text, _ in blocks(page) if language in {"python", "sh"})
    missing = []
    for package in sorted(set(dir(vidseg)) - set(vidseg.__all__)):
        module = getattr(vidseg, package)
        for name in getattr(module, "__all__", ()):
            if inspect.isfunction(getattr(module, name)) and not re.search(rf"\b{name}\b", code):
                missing.append(f"vidseg.{package}.{name}")
    assert missing == []
