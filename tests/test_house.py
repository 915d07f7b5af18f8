"""The house rules that can be checked: import directions, light imports, file sizes, no path into another project."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vidseg"

# The data flow (design: folders): each package, and what of vidseg it may import.
ORDER = {
    "ops": set(),
    "frames": {"ops"},
    "videos": {"frames", "labels"},
    "labels": {"frames"},
    "convert": {"frames", "videos", "labels"},
    "clips": {"frames", "labels"},
    "loaders": {"clips", "frames", "videos", "labels", "ops"},
    "models": {"ops"},
    "losses": {"ops"},
    "metrics": {"ops"},
    "plots": {"metrics", "frames", "labels"},
}
ORDER["engine"] = set(ORDER)
ORDER["tasks"] = set(ORDER)
ORDER["live"] = set(ORDER)
ORDER["learn"] = set(ORDER)
ORDER["export"] = set(ORDER)
ORDER["serve"] = set(ORDER)
ORDER["search"] = set(ORDER)
ORDER["cli"] = set(ORDER)


def imports_of(path: Path) -> set[str]:
    """Packages of vidseg that a file imports, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("vidseg.") and name.split(".")[1] != "__version__"}


@pytest.mark.parametrize("package", [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()])
def test_imports_go_one_way(package):
    assert package in ORDER, f"vidseg/{package} has no place in the data flow"
    for path in (PACKAGE / package).rglob("*.py"):
        wrong = imports_of(path) - ORDER[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


LIGHT = "import sys, {module}; print(*sorted(set(m.split('.')[0] for m in sys.modules) & set({heavy!r})))"


@pytest.mark.parametrize(
    "module, heavy",
    [
        (
            "vidseg",
            ["nvidia", "cv2", "imgaug", "apex", "tensorboard", "onnx", "ray", "matplotlib", "torch", "av", "numpy"],
        ),
        (
            "vidseg.frames, vidseg.labels, vidseg.models",
            ["nvidia", "cv2", "imgaug", "apex", "tensorboard", "ray", "matplotlib", "av"],
        ),
        ("vidseg.cli.convert, vidseg.cli.train, vidseg.cli.plot", ["torch", "av", "matplotlib", "numpy"]),
    ],
)
def test_imports_are_light(module, heavy):
    command = [sys.executable, "-c", LIGHT.format(module=module, heavy=heavy)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_every_public_name_exists():
    import vidseg

    for name in vidseg.__all__:
        assert getattr(vidseg, name).__doc__, f"vidseg.{name} has no docstring"
    assert set(vidseg.__all__) <= set(dir(vidseg))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = vidseg.nonsense


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    return [ROOT / name for name in listed if name.endswith((".py", ".cpp", ".h", ".cu", ".cuh"))]


def test_no_file_is_longer_than_800_lines():
    assert [path.name for path in sources() if path.is_file() and len(path.read_text().splitlines()) > 800] == []


def test_files_share_a_name_only_where_they_play_the_same_role():
    """In the folders of tasks, as the private registries of two packages, or as a command and what it runs."""
    homes: dict[str, list[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        if path.name != "__init__.py" and package != "cli":
            homes.setdefault(path.name, []).append(package)
    shared = {name: packages for name, packages in homes.items() if len(packages) > 1 and name != "_registry.py"}
    assert {name for name, packages in shared.items() if set(packages) - {"engine", "tasks"}} == set()
    assert set(shared) == {"task.py", "trained.py", "runs.py", "options.py", "recipes.py"}


def test_the_version_is_one():
    import vidseg

    assert f'version = "{vidseg.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {vidseg.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_papers_bib_has_the_papers_of_all_networks():
    """Each module of a network names its papers; docs/papers.bib has these and no others."""
    named = {
        path.stem: set(re.findall(r"arXiv\s(\d{4}\.\d{4,5})", ast.get_docstring(ast.parse(path.read_text())) or ""))
        for path in (PACKAGE / "models").glob("[!_]*.py")
    }
    assert [name for name, papers in named.items() if not papers] == ["etesvs"]  # published as code only
    text = (ROOT / "docs/papers.bib").read_text()
    entries = re.findall(r"^@(?:article|inproceedings|misc)\{(\w+),\n((?:  \w+ = \{.+\},?\n)+)\}$", text, re.MULTILINE)
    assert len(entries) == text.count("@") == len({key for key, _ in entries})
    assert all(
        {"title", "author", "year"} <= set(re.findall(r"^  (\w+) =", fields, re.MULTILINE)) for _, fields in entries
    )
    assert sorted(re.findall(r"eprint = \{(.+)\}", text)) == sorted(set().union(*named.values()))


# Names of distributions that differ from the name of their module
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "sqlite_utils": "sqlite-utils",
    "nvidia": "nvidia-dali-cuda120",
    "cv2": "opencv-python-headless",
    "onnx_ir": "onnx-ir",
    "mlflow": "mlflow-skinny",
}
# pip cannot install them as they are: docs/augmentation.md, docs/training.md, docs/export.md
UNDECLARED = {"imgaug", "apex", "tensorrt", "triton_python_backend_utils"}


def test_every_package_that_is_imported_is_a_declared_dependency():
    """Also one that another dependency brings today; the bounds of pyproject.toml are then those of vidseg."""
    text = (ROOT / "pyproject.toml").read_text()
    runtime = text[text.index("\ndependencies = [") : text.index("\ndev = [")]
    declared = set(re.findall(r'^\s*(?:\w+ = \[)?"([A-Za-z0-9_-]+)', runtime, re.MULTILINE))
    imported = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported[node.module.split(".")[0]] = path
            elif isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: path for alias in node.names}
    others = imported.keys() - set(sys.stdlib_module_names) - {"vidseg"} - UNDECLARED
    missing = {name: imported[name] for name in others if DISTRIBUTIONS.get(name, name) not in declared}
    assert not missing
    assert {"torch", "numpy", "pillow"} <= declared
