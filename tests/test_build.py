"""What `setup.py` says where something that the build needs is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A compiler that cannot find one header, and compiles nothing.
COMPILER = """#!/bin/sh
for word in "$@"; do
    case "$word" in *check.cpp) grep -q '{header}' "$word" && exit 1 ;; esac
done
exit 0
"""


@pytest.mark.parametrize(
    "header, message",
    [
        ("jpeglib.h", "libjpeg-turbo's header jpeglib.h is missing: Debian/Ubuntu package libjpeg-dev"),
        ("sqlite3.h", "SQLite's header sqlite3.h is missing: Debian/Ubuntu package libsqlite3-dev"),
        ("string_view", "a C++17 compiler is missing: Debian/Ubuntu package build-essential"),
    ],
)
def test_a_missing_package_is_one_clear_line(tmp_path, header, message):
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.format(header=header))
    compiler.chmod(0o755)
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        tmp_path / "lib",
        "--build-temp",
        tmp_path / "temp",
    ]
    environment = {**os.environ, "CC": str(compiler), "CXX": str(compiler), "VIDSEG_CUDA": "0"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("is missing") == 1
    assert "To install: sudo apt-get install" in result.stderr


def test_a_wrong_setting_is_named(tmp_path):
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "VIDSEG_CUDA": "maybe"},
    )
    assert result.returncode == 1
    assert "VIDSEG_CUDA=maybe: expected 0, 1 or auto" in result.stderr


def test_a_library_that_is_not_there_says_what_to_do():
    from vidseg.ops.library import NativeLibraryError, load_library

    with pytest.raises(NativeLibraryError, match=r"frames/_absent\.so does not exist.*make setup"):
        load_library("frames/_absent")
