"""Signals in the commands: exit status, and no traceback wherever Python drops or replaces the exception."""

import os
import signal
import subprocess
import sys
import time

import pytest
from shapes import shapes_dataset

from vidseg.engine.checkpoints import read_checkpoint

PROGRAM = """
import os, signal, sys, time
from vidseg.cli.interruption import run_interruptible
signal.signal(signal.SIGINT, signal.default_int_handler)
number = int(sys.argv[2])

def send():
    os.kill(os.getpid(), number)
    time.sleep(5)

class Dropped:
    def __del__(self):
        send()

def work():
    way = sys.argv[1]
    if way == "plain":
        send()
    elif way == "dropped":
        thing = Dropped()
        del thing
        time.sleep(5)
    elif way == "replaced":
        try:
            send()
        except KeyboardInterrupt:
            raise ImportError("of a library")
    elif way == "caught":
        try:
            send()
        except KeyboardInterrupt:
            print("recorded")
            return 1
    elif way == "twice":
        try:
            send()
        finally:
            send()
            print("cleaned up")
    elif way == "hanging":
        try:
            send()
        finally:
            time.sleep(1.1)
            send()
            print("never")
    elif way == "nothing":
        return 3
    return 0

sys.exit(run_interruptible("program", lambda: run_interruptible("inner", work), last=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "way, printed",
    [("plain", ""), ("dropped", ""), ("replaced", ""), ("caught", "recorded\n"), ("twice", "cleaned up\n")],
)
def test_status_and_output(way, printed, number):
    result = subprocess.run([sys.executable, "-c", PROGRAM, way, str(int(number))], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (128 + number, printed)
    named = "program: interrupted\n" if number == signal.SIGINT else "program: ended by SIGTERM\n"
    assert result.stderr == ("" if way == "caught" else named)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_later_signal_ends_a_cleanup_that_hangs(number):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "hanging", str(int(number))], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_ends_before_the_command(tmp_path, number):
    """An exception in the C++ code of a module that is being loaded ends the process with SIGABRT."""
    (tmp_path / "slow.py").write_text(
        "import os, time\nos.kill(os.getpid(), NUMBER)\ntime.sleep(0.2)\nprint('loaded')\n"
    )
    code = (
        "import builtins, signal, sys, time\nfrom vidseg.cli.interruption import run_interruptible\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"builtins.NUMBER = {int(number)}\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "def work():\n    import slow\n    time.sleep(5)\n    print('never')\n"
        "sys.exit(run_interruptible('program', work, last=True))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (128 + number, "loaded\n")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 128 + signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_process_of_a_group_ends_at_once_with_sigterm(number, status):
    """No cleanup: it could wait for a process that has failed."""
    command = [sys.executable, "-c", PROGRAM, "twice", str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RANK": "0"})
    assert (result.returncode, result.stdout) == (status, "cleaned up\n" if status > 0 else "")


def test_without_a_signal_nothing_changes():
    from vidseg.cli.interruption import run_interruptible

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook
    assert run_interruptible("program", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        run_interruptible("program", lambda: 1 // 0)
    with pytest.raises(SystemExit):
        run_interruptible("program", lambda: sys.exit(2))
    assert ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook) == before


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("shapes"), videos=16, frames=10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_ends_with_the_status_of_the_signal_and_resumes(tmp_path, root, number):
    out = tmp_path / "run"
    words = ["train", str(root), "--network", "srtg_r3d_18", "--network-option", "width=0.125", "--frames", "4"]
    words += ["--size", "32", "--batch-size", "2", "--device", "cpu", "--out", str(out)]
    command = [sys.executable, "-m", "vidseg.cli.main", *words]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores Ctrl-C
    try:
        run = subprocess.Popen([*command, "--epochs", "1000"], stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    while not list(out.glob("*_last.pth")):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "Traceback" not in errors
    assert "terminate called" not in errors
    (last,) = out.glob("*_last.pth")
    done = read_checkpoint(last)["epoch"]
    result = subprocess.run([*command, "--resume", "--epochs", str(done + 1)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert read_checkpoint(last)["epoch"] == done + 1
