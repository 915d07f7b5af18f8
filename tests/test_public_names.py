"""dir() and __all__ of every package are true: each name can be imported, and each lazy name is listed."""

import importlib
from pathlib import Path

import pytest

import vidseg

ROOT = Path(vidseg.__file__).parent
PACKAGES = sorted(".".join(("vidseg", *file.parent.relative_to(ROOT).parts)) for file in ROOT.rglob("__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_dir_can_be_got(package):
    module = importlib.import_module(package)
    names = dir(module)
    assert [name for name in names if not name.startswith("_") and not hasattr(module, name)] == []
    assert sorted(set(getattr(module, "__all__", ())) - set(names)) == []
    lazy = getattr(module, "_HOME", {})
    assert sorted(set(lazy) - set(getattr(module, "__all__", ()))) == []


def test_the_packages_are_listed():
    subpackages = {name.removeprefix("vidseg.") for name in PACKAGES if name.count(".") == 1}
    assert subpackages - {"cli"} <= set(dir(vidseg))
