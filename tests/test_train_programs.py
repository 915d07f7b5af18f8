"""The programs of train/, `vidseg train NAME`, `vidseg test` and `vidseg predict`: arguments, defaults, whole runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from shapes import shapes_dataset

from vidseg.cli.main import main
from vidseg.cli.train import prepare
from vidseg.engine import TrainOptions
from vidseg.engine.launch import launch_command, launch_processes
from vidseg.engine.options import flat_options, options_from
from vidseg.tasks.recognition.recipes import PRESETS

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def options_of(name: str | None, *words: str) -> dict[str, object]:
    """The options that a command line gives."""
    import tyro

    from vidseg.cli.main import _spelled_out

    _, command, default, left = prepare(list(words), name)
    parsed = tyro.cli(command, args=_spelled_out(command, left), default=default, config=(tyro.conf.OmitArgPrefixes,))
    return flat_options(parsed.options())


# The table of the published README, with its spellings, and what each must do
PUBLISHED = {
    "--debug-mode False": {"debug_mode": False},
    "--dataset /data/HACS_videos/": {"dataset": "/data/HACS_videos/"},
    "--clip-length 8": {"clip_length": 8},
    "--clip-size 324": {"clip_size": 324},
    "--train-frame-inteval 3": {"train_frame_interval": (3,)},
    "--train-frame-interval 4,5,6": {"train_frame_interval": (4, 5, 6)},
    "--val-frame-inteval 5": {"val_frame_interval": (5,)},
    "--task-name second": {"task_name": "second"},
    "--model-dir /models": {"model_dir": "/models"},
    "--log-file /tmp/a.log": {"log_file": "/tmp/a.log"},
    "--gpus 4": {"gpus": "4"},
    "--gpus 0,1,2,3": {"gpus": "0,1,2,3"},
    "--network srtg_r3d_34": {"network": "srtg_r3d_34"},
    "--pretrained-3d a.pth": {"pretrained_3d": "a.pth"},
    "--pretrained_3d a.pth": {"pretrained_3d": "a.pth"},
    "--fine-tune True": {"fine_tune": True},
    "--fine-tune False": {"fine_tune": False},
    "--resume-epoch 21": {"resume_epoch": 21},
    "--resume-epoch -1": {"resume_epoch": -1},
    "--batch-size 48": {"batch_size": 48},
    "--long-cycles False": {"long_cycles": False},
    "--short-cycles True": {"short_cycles": True},
    "--lr-base 0.05": {"lr_base": 0.05},
    "--lr-steps 40,70": {"lr_steps": (40, 70)},
    "--lr-steps [40,70]": {"lr_steps": (40, 70)},
    "--lr-steps 40 70": {"lr_steps": (40, 70)},
    "--lr-steps=40,70": {"lr_steps": (40, 70)},
    "--lr-factor 1": {"lr_factor": 1.0},
    "--save-frequency 5": {"save_frequency": 5},
    "--end-epoch 60": {"end_epoch": 60},
    "--random-seed 7": {"random_seed": 7},
}


@pytest.mark.parametrize("name", ["hacs", "kinetics", "ucf101"])
@pytest.mark.parametrize("words", PUBLISHED)
def test_every_published_argument(words, name):
    defaults, found = options_of(name), options_of(name, *words.split())
    assert {key: value for key, value in found.items() if value != defaults[key]} == {
        key: value for key, value in PUBLISHED[words].items() if value != defaults[key]
    }


def test_published_defaults():
    """The table of the published scripts."""
    columns = ("num_classes", "network", "clip_size", "train_frame_interval", "val_frame_interval", "batch_size")
    columns += ("lr_base", "lr_steps", "end_epoch", "model_dir", "long_cycles", "short_cycles")
    small = (256, (2,), (2,), 32, 0.1, (15, 30, 40), 100, "exps/models", False, False)
    table = {
        "hacs": (200, "r3d_50", 284, (1, 2), (2,), 48, 0.1, (40, 60, 75, 90), 120, "results/HACS", True, True),
        "kinetics": (
            700,
            "r3d_50",
            284,
            (4, 5, 6),
            (5,),
            32,
            0.05,
            (40, 70, 95),
            130,
            "results/KINETICS-700",
            True,
            True,
        ),
        "moments": (339, "r3d_50", 284, (3, 4), (3,), 48, 0.1, (25, 50, 70), 110, "exps/models", True, True),
        "ucf101": (101, "", *small),
        "hmdb51": (51, "", *small),
        "diving48": (48, "", *small),
    }
    for name, row in table.items():
        found = options_of(name)
        assert tuple(found[column] for column in columns) == row, name
        common = ("clip_length", "fine_tune", "resume_epoch", "lr_factor", "save_frequency", "random_seed")
        assert tuple(found[column] for column in common) == (16, False, -1, 0.1, 1, 1)
        assert (found["momentum"], found["weight_decay"], found["optimizer"]) == (0.9, 1e-4, "sgd")
        assert (found["augment"], found["geometry"], found["val_geometry"]) == (name,) * 3


def test_variant_of_kinetics():
    found = options_of("kinetics", "--variant", "400")
    assert (found["num_classes"], found["model_dir"]) == (400, "results/KINETICS-400")
    kept = options_of("kinetics", "--variant", "400", "--num-classes", "5", "--model-dir", "mine")
    assert (kept["num_classes"], kept["model_dir"]) == (5, "mine")
    assert main(["train", "kinetics", "--variant", "500"]) == 2
    assert main(["train", "hacs", "--variant", "400"]) == 2


@pytest.mark.parametrize("name", ["hacs", "kinetics", "moments", "ucf101", "hmdb51", "diving48", "synth"])
def test_each_data_set_has_a_program(name, capsys):
    source = (ROOT / f"train/train_{name}.py").read_text()
    assert f'train_program("{name}")' in source
    assert main(["train", name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: vidseg train {name}" in text
    for option in flat_options(TrainOptions()):
        assert f"--{option.replace('_', '-')}" in text, option
    for group in ("data", "network", "schedule", "optimizer", "devices", "evaluation", "checkpoints", "monitors"):
        assert f" {group} options " in text
    assert "--train-frame-inteval" in text


def test_a_program_runs_and_is_the_command():
    result = subprocess.run(
        [sys.executable, ROOT / "train/train_kinetics.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "train_kinetics.py" in result.stdout and "--variant" in result.stdout


def test_configuration_files(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "schedule:\n  lr-steps: [3, 5]\n  lr_base: 0.5\ntrain-frame-inteval: 3\nfine-tune: true\nnetwork: r3d_18\n"
        "variant: 600\naugment: null\n"
    )
    found = options_of("kinetics", "--config", str(path), "--lr-base", "0.25")
    assert (found["lr_steps"], found["lr_base"], found["train_frame_interval"]) == ((3, 5), 0.25, (3,))
    assert (found["fine_tune"], found["network"], found["num_classes"], found["augment"]) == (True, "r3d_18", 600, None)
    assert options_of("kinetics", "--lr-base", "0.25", f"--config={path}") == found  # flags count wherever they stand
    record = tmp_path / "options.json"
    record.write_text(json.dumps({"options": found, "classes": ["a"]}))
    assert options_of(None, "--config", str(record)) == found
    assert flat_options(options_from(json.loads(record.read_text())["options"])) == found
    cases = {"bacth-size: 3\n": "did you mean 'batch-size'", "[1, 2]": "holds no options", "a: [": "is not YAML"}
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            prepare(["--config", str(path)], "hacs")
    with pytest.raises(FileNotFoundError, match="given with --config"):
        prepare(["--config", "absent.yaml"], "hacs")


def test_presets_are_whole():
    for preset in PRESETS.values():
        assert isinstance(preset.defaults(), TrainOptions) and preset.title
    yaml.safe_dump(PRESETS["hacs"].options | {"lr_steps": [1], "train_frame_interval": [1]})


def test_a_process_for_each_gpu(monkeypatch):
    command, environment = launch_command([0, 2], ["train_hacs.py", "--gpus", "0,2"], {"A": "b"})
    assert command[1:] == "-m torch.distributed.run --standalone --nproc-per-node 2 train_hacs.py --gpus 0,2".split()
    assert environment == {"A": "b", "CUDA_VISIBLE_DEVICES": "0,2"}
    assert launch_command([0, 1], [], {"CUDA_VISIBLE_DEVICES": "5,6,7"})[1]["CUDA_VISIBLE_DEVICES"] == "5,6"
    started = []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(
        subprocess, "run", lambda command, env: started.append(env) or subprocess.CompletedProcess(command, 3)
    )
    assert launch_processes("2") == 3 and started[0]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert launch_processes(None) == 3 and started[1]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert launch_processes("1") is launch_processes("3,") is launch_processes("0") is None
    monkeypatch.setenv("RANK", "1")
    assert launch_processes("2") is None and len(started) == 2


# Whole runs on a data set laid out as UCF-101

SHORT = "--network r3d_18 --width 0.125 --clip-length 4 --clip-size 32 --batch-size 6 --end-epoch 2 --lr-base 0.05"
SHORT += " --threads 1 --num-classes 8"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("programs"), videos=24)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    words = ["train", "ucf101", "--dataset", str(root), *SHORT.split(), "--model-dir", str(out)]
    assert main([*words, "--task-name", "first"]) == 0
    return out / "r3d_18_first"


def test_a_run_of_a_program(run):
    options = json.loads((run / "options.json").read_text())["options"]
    assert options["augment"] == options["geometry"] == "ucf101" and options["lr_steps"] == [15, 30, 40]
    assert {path.name for path in run.glob("*.pth")} == {
        "r3d_18_best.pth",
        "r3d_18_ep-0001.pth",
        "r3d_18_ep-0002.pth",
        "r3d_18_last.pth",
    }
    assert "group all: " in (run / "train.log").read_text()  # debug mode


def test_resuming_from_the_folder_and_from_an_epoch(root, run, tmp_path):
    shutil.copytree(run, tmp_path / "r3d_18")
    words = ["train", "ucf101", "--dataset", str(root), *SHORT.split(), "--model-dir", str(tmp_path)]
    last = tmp_path / "r3d_18/r3d_18_ep-0002.pth"
    expected = torch.load(last, weights_only=True)
    last.unlink()
    # the published way: the epoch to go on with, and the checkpoint before it
    before = tmp_path / "r3d_18/r3d_18_ep-0001.pth"
    assert main([*words, "--resume-epoch", "2", "--pretrained_3d", str(before)]) == 0
    found = torch.load(last, weights_only=True)
    assert all(torch.equal(found["state_dict"][key], value) for key, value in expected["state_dict"].items())
    assert "going on with epoch [1], batch [0]" in (tmp_path / "r3d_18/train.log").read_text()
    last.unlink()
    assert main([*words, "--resume-epoch", "2"]) == 0
    assert main([*words, "--resume", "--end-epoch", "3"]) == 0
    assert torch.load(tmp_path / "r3d_18/r3d_18_last.pth", weights_only=True)["epoch"] == 3
    with (tmp_path / "r3d_18/val_results_s0002.csv").open() as file:
        assert [row["Epoch"] for row in csv.DictReader(file)] == ["2"]


def test_views_are_averaged(run, capsys):
    assert main(["test", str(run), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["test", str(run), "--clips", "2", "--crops", "3", "--json"]) == 0
    six = json.loads(capsys.readouterr().out)
    assert (one["views"], six["views"]) == (1, 6) and one["videos"] == six["videos"] == 16
    assert one["loss"] != six["loss"]
    assert (run / "mistakes.png").is_file() == bool(six["mistakes"])
    assert main(["test", str(run), "--crops", "4"]) == 2
    assert "crops=4" in capsys.readouterr().err


def test_pictures_of_a_run(run, capsys):
    for kind in ("curves", "speed"):
        assert main(["plot", kind, str(run)]) == 0
        assert Path(capsys.readouterr().out.strip()).stat().st_size > 5000


def test_predict_video_files(root, run, tmp_path, capsys):
    """The same answers as for the converted videos, up to the JPEGs; a file that is no video is named and counted."""
    source = root.parent / "source/videos"
    assert main(["predict", str(source), "--weights", str(run), "--json", "--top", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 24 and all(len(video["classes"]) == 3 for video in found)
    assert all(video["probabilities"] == sorted(video["probabilities"], reverse=True) for video in found)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(found[0]["video"], one / "clip.mp4")
    (one / "bad.mp4").write_text("no video")
    words = ["predict", str(one), "--weights", str(run / "r3d_18_best.pth"), "--draw", str(tmp_path / "drawn")]
    assert main(words) == 1
    assert re.match(rf"{one}/clip.mp4  {found[0]['classes'][0]} \d\.\d+  ", capsys.readouterr().out)
    import av

    with av.open(str(tmp_path / "drawn/clip.mp4")) as drawn, av.open(str(one / "clip.mp4")) as plain:
        pairs = list(zip(drawn.decode(video=0), plain.decode(video=0), strict=True))
        before, after = (pair.to_ndarray(format="rgb24").astype(int) for pair in reversed(pairs[0]))
        assert before.shape == after.shape and (abs(before - after).max(axis=2) > 60).mean() > 0.05
    assert main(["predict", str(one / "clip.mp4"), "--weights", str(run), "--clips", "2"]) == 0


def test_weights_that_do_not_say_what_they_are(run, tmp_path, capsys):
    torch.save(torch.load(run / "r3d_18_best.pth", weights_only=True)["state_dict"], tmp_path / "plain.pth")
    video = str(next((Path(json.loads((run / "options.json").read_text())["options"]["dataset"])).glob("jpg/*/*")))
    assert main(["predict", video, "--weights", str(tmp_path / "plain.pth")]) == 2
    assert "--network and --classes do" in capsys.readouterr().err
    assert main(["predict", video, "--weights", str(tmp_path / "absent.pth")]) == 2


def test_a_dry_run_writes_nothing_but_its_picture(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "hacs", "--dataset", str(root), "--num-classes", "8", "--batch-size", "1", "--clip-size", "32"]
    words += ["--train-split", "test", "--short-cycles", "False"]
    assert main([*words, "--dry-run", "--end-epoch", "50"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +0-39 +\d+ +\d+ +8, 4, 22, 22 +1\.00e-1$", text, re.M)
    assert re.search(r"^ +40-49 +\d+ +\d+ +8, 4, 22, 22 +1\.00e-2$", text, re.M)
    assert main([*words, "--dry-run", "--end-epoch", "50", "--cycle-epochs", "45"]) == 0
    assert re.search(r"^ +45-49 +(\d+) +\1 +1, 16, 32, 32 +1\.25e-3$", capsys.readouterr().out, re.M)
    assert "schedule.png" in text and [path.name for path in tmp_path.iterdir()] == ["schedule.png"]


def test_torchrun_equals_one_process(root, tmp_path):
    """The published program under torchrun on two CPU processes, against one, with batch norm over the group."""
    words = ["train", str(root), *SHORT.split(), "--sync-bn", "--end-epoch", "1", "--lr-base", "0.001"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run(
        [*launcher, "-m", "vidseg.cli.main", *words, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.strip() == str(tmp_path / "two")  # one of them speaks
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    tables = []
    for name in ("one", "two"):
        with (tmp_path / name / "train_results_s0000.csv").open() as file:
            tables.append([float(value) for value in list(csv.reader(file))[1]])
    assert tables[1] == pytest.approx(tables[0], rel=1e-3)


def test_official_splits_of_ucf101_are_found(root, tmp_path):
    """Splits as converters/ucf101.py names them."""
    from vidseg.labels import LabelRow, apply_labels, open_dataset, scan_catalog
    from vidseg.tasks.recognition.data import choose_splits

    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data/catalog.db").unlink()
    scan_catalog(tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    videos = [(data.classes[video.label], video.name) for video in data]
    rows = [
        LabelRow(label, name, split="split1/train" if number % 2 else "split1/test")
        for number, (label, name) in enumerate(videos)
    ]
    apply_labels(tmp_path / "data", rows)
    defaults = PRESETS["ucf101"].defaults().data
    train, held_out = choose_splits(replace(defaults, dataset=str(tmp_path / "data"), num_classes=8), seed=1)
    assert (train.split_name, held_out.split_name) == ("split1/train", "split1/test")
    assert len(train) == len(held_out) == 12


def test_a_missing_video_is_named(root, tmp_path, capsys):
    shutil.copytree(root, tmp_path / "data")
    gone = next((tmp_path / "data/jpg/pulse").glob("*/frames.db"))
    gone.unlink()
    words = ["train", str(tmp_path / "data"), *SHORT.split(), "--train-split", "train", "--out", str(tmp_path / "run")]
    assert main([*words, "--test-split", "train"]) == 1
    assert str(gone) in capsys.readouterr().err


def test_training_straight_from_video_files(root, tmp_path):
    """The option instead of a conversion; classes and numbers of videos are the same."""
    words = ["train", str(root.parent / "source/videos"), *SHORT.split(), "--backend", "video", "--end-epoch", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "options.json").read_text())["options"]["backend"] == "video"
    assert "8 classes" in (tmp_path / "train.log").read_text()
