"""The commands as a user types them: help, exit statuses, what goes to stdout, what `check` repairs."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_published_database

from vidseg.cli.main import COMMANDS, dataset2database, main
from vidseg.frames import FrameDatabase


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vidseg.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def dataset(tmp_path, make_video) -> Path:
    for label, name in (("run", "a"), ("run", "b"), ("jump", "c")):
        make_video(tmp_path / f"videos/{label}/{name}.mp4", frames=6)
    assert dataset2database([str(tmp_path / "videos"), str(tmp_path / "data"), "--workers", "1"]) == 0
    return tmp_path / "data"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: vidseg {name}" in text


HELP = [[name] for name in COMMANDS] + [
    *(["labels", part] for part in ("scan", "apply", "show")),
    *(["plot", part] for part in "contact curves confusion speed segments errors labels report".split()),
    ["predict", "--stream"],
]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_has_no_none_and_every_positional_argument(words, capsys):
    """No `{None}|STR (default: None)`, which says nothing."""
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "{None}" not in text and "default: None" not in text and "(default: )" not in text
    if words[0] != "env" and words not in (["labels"], ["plot"]):
        assert "positional arguments" in text


@pytest.mark.parametrize("words", [["train"], ["predict"], ["plot", "curves"], ["test"], ["score"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    heavy = ("torch", "av", "matplotlib")
    code = (
        f"import sys, vidseg.cli.main as m; m.main({[*words, '--help']}); sys.exit(any(map(sys.modules.get, {heavy})))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", ["plot_curves", "plot_confusion", "plot_speeds", "plot_label_counts"])
def test_plots_of_tables_do_not_import_torch(name):
    code = f"import sys, vidseg.plots as p; p.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_optional_values_may_be_reset_and_choices_are_checked(tmp_path, capsys):
    from dataclasses import dataclass
    from typing import Literal

    from vidseg.cli.parsing import parse

    @dataclass(frozen=True)
    class Options:
        """Options."""

        size: int | None = 3
        """Size."""
        kind: Literal["a", "b"] | None = None
        """Kind."""
        mean: tuple[float, float] | None = None
        """Mean."""

    assert parse("x", Options, ["--size", "None"]).size is None
    assert parse("x", Options, ["--kind", "b", "--mean", "1", "2"]) == Options(kind="b", mean=(1.0, 2.0))
    for words in (["--kind", "c"], ["--size", "many"], ["--mean", "1"]):
        with pytest.raises(SystemExit) as stop:
            parse("x", Options, words)
        assert stop.value.code == 2
    assert "c is not one of a, b" in " ".join(capsys.readouterr().err.split())


def test_overview_and_wrong_names(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in COMMANDS)
    assert main(["--version"]) == 0
    assert main([]) == 2
    assert main(["convrt"]) == 2
    assert "did you mean 'convert'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "only-one"],
        ["convert", "absent", "data"],
        ["convert", "videos", "data", "--quality", "200"],
        ["convert", "videos", "data", "--qality", "80"],
        ["check", "absent"],
        ["info", "absent"],
        ["test", "absent"],
        ["test", "videos"],
        ["predict", "absent.mp4", "--weights", "absent"],
        ["predict", "videos", "--weights", "absent"],
        ["predict", "--stream", "absent.mp4", "--weights", "absent"],
        ["extract-features", "absent", "--weights", "absent.pth"],
        ["plot", "curves", "absent"],
        ["plot", "confusion", "absent"],
        ["plot", "segments", "absent"],
        ["plot", "report", "absent"],
        ["score"],
        ["score", "absent", "absent"],
        ["score", "absent.npz"],
        ["list", "--task", "cooking"],
        ["profile", "absent"],
        ["profile", "r3d_18", "--device", "nonsense"],
        ["profile", "r3d_18", "--device", "cuda:99"],
        ["train", "absent"],
        ["train", "gtea", "absent"],
        ["train", "stream", "absent"],
        ["train", "--config", "absent.yaml"],
        ["train", "videos", "--lr", "fast"],
    ],
)
def test_wrong_use_is_exit_status_2(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_errors_of_the_system_begin_with_the_name_of_the_file(dataset, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file/out"
    assert main(["convert", str(dataset), str(out), "--to", "jpeg"]) == 2
    assert re.fullmatch(rf"vidseg convert: {out}\S*: Not a directory\n", capsys.readouterr().err)


def test_flags_take_true_and_false_and_underscores(tmp_path, make_video):
    make_video(tmp_path / "videos/run/a.mp4", frames=3)
    source, target = str(tmp_path / "videos"), str(tmp_path / "data")
    assert main(["convert", source, target, "--dry_run", "True", "--on_error", "stop"]) == 0
    assert not (tmp_path / "data").exists()
    assert main(["convert", source, target, "--dry-run=False", "--restart_interval", "2"]) == 0
    assert FrameDatabase(tmp_path / "data/jpg/run/a").meta["restart_interval"] == 2


def test_convert_prints_results_on_stdout_and_logs_on_stderr(tmp_path, make_video):
    make_video(tmp_path / "videos/run/a.mp4", frames=3)
    (tmp_path / "videos/run/bad.mp4").write_text("no video")
    result = run("convert", "videos", "data", "--json", cwd=tmp_path)
    assert result.returncode == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"converted": 1, "failed": 1}
    assert "bad.mp4" in result.stderr
    assert "\x1b[" not in result.stderr + result.stdout


def test_info_speaks_of_databases_and_data_sets(dataset, capsys):
    assert main(["info", str(dataset / "jpg/run/a"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["frames"], facts["size"], facts["codec"]) == (6, "64x48", "h264")
    assert main(["info", str(dataset), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["videos"], facts["classes"], facts["frames"]) == (3, 2, 18)
    assert main(["info", str(dataset)]) == 0
    assert "jump, run" in capsys.readouterr().out


def test_info_of_a_checkpoint(tmp_path, capsys):
    import torch

    torch.save({"epoch": 3, "state_dict": {"module.fc.weight": torch.zeros(2, 3)}}, tmp_path / "x.pth")
    assert main(["info", str(tmp_path / "x.pth"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["tensors"], facts["values"]) == (1, 6) and facts["fits"].startswith("none of the")


@pytest.mark.parametrize("words, module", [(["client", "x"], "httpx"), (["annotate", "."], "fastapi")])
def test_a_missing_package_is_named_with_its_extra(words, module):
    code = f"import sys; sys.modules[{module!r}] = None; from vidseg.cli.main import main; sys.exit(main({words!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.endswith("pip install 'vidseg[serve]'\n"), result.stderr


def test_env_lists_versions_and_native_parts(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["frames/_encoder"].startswith("loaded")
    assert facts["frames/_frames"].startswith("loaded")
    assert facts["ops/_ops"].startswith("loaded")
    assert "libjpeg-turbo" in facts["frames built with"]
    assert facts["vector instructions"].split()[0] in ("avx512", "avx2", "baseline")
    assert facts["torch"]


def test_env_names_the_vector_instructions_that_run():
    for name, status in (("baseline", 0), ("avx9", 1)):
        command = [sys.executable, "-c", "from vidseg.cli.main import main; raise SystemExit(main(['env', '--json']))"]
        environment = {**os.environ, "VIDSEG_SIMD": name}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == status
        assert name in json.loads(result.stdout)["vector instructions"]


def test_check_finds_and_repairs(dataset, capsys):
    assert main(["check", str(dataset)]) == 0
    connection = sqlite3.connect(dataset / "jpg/run/a/frames.db")
    connection.execute("UPDATE Images SET frames = substr(frames, 1, 200) WHERE rowid = 3")
    connection.commit()
    connection.close()
    (dataset / "jpg/run/b/n_frames").unlink()
    leftover = dataset / "jpg/jump/c/frames.db.00112233aabbccdd.tmp"
    leftover.write_bytes(b"half")
    capsys.readouterr()
    assert main(["check", str(dataset), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    problems = {Path(check["path"]).parent.name: check["problems"] for check in report["databases"]}
    assert "frame 2: damaged JPEG" in problems["a"][0]
    assert problems["b"] == ["n_frames is missing"]
    assert report["leftovers"] == [str(leftover)]
    assert main(["check", str(dataset), "--repair"]) == 0
    assert main(["check", str(dataset)]) == 0
    assert len(FrameDatabase(dataset / "jpg/run/a")) == 5
    assert FrameDatabase(dataset / "jpg/run/a").meta["dropped_frames"] == 1
    assert not leftover.exists()


def test_check_upgrades_published_databases(tmp_path, dataset):
    jpegs = FrameDatabase(dataset / "jpg/run/a").read(range(6))
    path = write_published_database(tmp_path / "old/jpg/run/x", jpegs, width=64, order=[5, 0, 3, 1, 2, 4])
    assert main(["check", str(tmp_path / "old")]) == 0
    assert "format" not in FrameDatabase(path).meta
    assert main(["check", str(tmp_path / "old"), "--index"]) == 0
    upgraded = FrameDatabase(path)
    assert upgraded.meta["format"] == "vidseg frames 1"
    assert upgraded.read(range(6)) == jpegs
    assert upgraded.verify() == []


def test_a_file_that_is_no_database_is_a_fault_not_a_crash(dataset, capsys):
    (dataset / "jpg/run/a/frames.db").write_bytes(b"rubbish" * 500)
    assert main(["check", str(dataset)]) == 1
    assert "convert the video again" in capsys.readouterr().out
