"""`make gpu-check` without a GPU, and the summary of its steps."""

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / ".ci/gpu-check"


@pytest.fixture
def program(monkeypatch, tmp_path):
    loader = SourceFileLoader("gpu_check", str(PROGRAM))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(sys, "argv", ["gpu-check"])
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_checked():
    result = subprocess.run([sys.executable, PROGRAM, "--only", "fuzz"], capture_output=True, text=True)
    assert result.returncode == 2
    rows = [line.split() for line in result.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["gpu"])[1:] != []
    assert "torch finds no CUDA device" in result.stdout and "no GPU: nothing was checked" in result.stdout
    assert ["fuzz", "not", "there", "0.0", "s", "no", "GPU"] in rows


def test_the_summary_names_each_result(program, monkeypatch, capsys):
    def missing(check):
        check.require("json", "no_such_module_at_all")

    def failing(check):
        check.python("-c", "print('first'); raise SystemExit('the reason')")

    steps = [
        program.Step("gpu", lambda check: "a GPU", needs_gpu=False),
        program.Step("good", lambda check: check.python("-c", "print('fine')").strip()),
        program.Step("missing", missing),
        program.Step("bad", failing),
    ]
    monkeypatch.setattr(program, "STEPS", steps)
    assert program.main() == 1
    assert [step.status for step in steps] == ["passed", "passed", "not there", "failed"]
    output = capsys.readouterr().out
    assert "fine" in output and "No module named 'no_such_module_at_all'" in output and "the reason" in output
    assert "failed: bad; see logs/" in output
    assert "first" in (program.LOGS / "bad.log").read_text()
    monkeypatch.setattr(program, "STEPS", steps[:3])
    assert program.main() == 0


def test_tests_that_were_all_skipped_are_not_a_pass(program, tmp_path):
    program.LOGS.mkdir()
    (tmp_path / "test_skip.py").write_text(
        "import pytest\n\n@pytest.mark.cuda\n@pytest.mark.skip(reason='no device here')\ndef test_a(): pass\n"
    )
    (tmp_path / "test_pass.py").write_text("import pytest\n\n@pytest.mark.cuda\ndef test_a(): pass\n")
    check = program.Check(1, log=program.LOGS / "log")
    with pytest.raises(program.NotThereError, match="no device here"):
        check.pytest(tmp_path / "test_skip.py")
    assert "1 passed" in check.pytest(tmp_path / "test_pass.py")
