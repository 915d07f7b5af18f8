"""Every code block of the README and the docs runs, as a reader would run it, in a folder with `videos/` and `data/`.

Blocks marked `python` run in order as one session for each file, `sh` blocks in bash; `text` blocks are only shown.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vidseg.convert import convert_videos

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("page", PAGES)
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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target} does not exist"
