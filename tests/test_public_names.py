"""dir() and __all__ of every package are true: each name can be imported, and each lazy name is listed."""

import importlib
import pkgutil

import pytest

import vidseg

PACKAGES = ["vidseg", *(f"vidseg.{one.name}" for one in pkgutil.iter_modules(vidseg.__path__) if one.ispkg)]
PACKAGES += [
    f"{package}.{one.name}"
    for package in PACKAGES[1:]
    for one in pkgutil.iter_modules(importlib.import_module(package).__path__)
    if one.ispkg
]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_dir_can_be_got(package):
    module = importlib.import_module(package)
    names = dir(module)
    assert [name for name in names if not name.startswith("_") and not hasattr(module, name)] == []
    assert sorted(set(getattr(module, "__all__", ())) - set(names)) == []
    lazy = getattr(module, "_HOME", {})
    assert sorted(set(lazy) - set(getattr(module, "__all__", ()))) == []


def test_the_packages_are_listed():
    subpackages = {name.removeprefix("vidseg.") for name in PACKAGES[1:] if name.count(".") == 1}
    assert subpackages - {"cli"} <= set(dir(vidseg))
