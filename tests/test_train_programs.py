"""The programs of train/, `vidseg train NAME`, `vidseg test` and `vidseg predict`: arguments, defaults, whole runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from segmentation_data import segmentation_dataset
from shapes import shapes_dataset

from vidseg.cli.main import main
from vidseg.cli.parsing import parse
from vidseg.cli.train import NAMES, prepare
from vidseg.clips import augmentations
from vidseg.clips.named_geometry import GEOMETRIES
from vidseg.engine.launch import launch_command, launch_processes
from vidseg.engine.options import flat_options
from vidseg.tasks.detection.options import DetectionOptions
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.recipes import RECIPES
from vidseg.tasks.segmentation.options import SegmentationOptions
from vidseg.tasks.streaming.options import StreamingOptions

ROOT = Path(__file__).parent.parent
TASKS = {
    "recognition": RecognitionOptions(),
    "segmentation": SegmentationOptions(),
    "streaming": StreamingOptions(),
    "detection": DetectionOptions(),
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def options_of(name: str | None, *words: str) -> dict[str, object]:
    """The options that a command line gives."""
    prepared = prepare(list(words), name)
    command = parse("train", prepared.command, prepared.words, default=prepared.default)
    return flat_options(prepared.run.__self__.resolved(command))


# The table of the published README, with its spellings, and the options that they set
PUBLISHED = {
    "--debug-mode False": {"debug_mode": False},
    "--dataset /data/HACS_videos/": {"dataset": "/data/HACS_videos/"},
    "--clip-length 8": {"frames": 8},
    "--clip-size 324": {"size": 324},
    "--train-frame-inteval 3": {"train_interval": (3,)},
    "--train-frame-interval 4,5,6": {"train_interval": (4, 5, 6)},
    "--val-frame-inteval 5": {"interval": 5},
    "--task-name second": {"task_name": "second"},
    "--model-dir /models": {"model_dir": "/models"},
    "--log-file /tmp/a.log": {"log_file": "/tmp/a.log"},
    "--gpus 4": {"gpus": "4"},
    "--gpus 0,1,2,3": {"gpus": "0,1,2,3"},
    "--network srtg_r3d_34": {"network": "srtg_r3d_34"},
    "--pretrained-3d a.pth": {"pretrained": "a.pth"},
    "--pretrained_3d a.pth": {"pretrained": "a.pth"},
    "--fine-tune True": {"fine_tune": True},
    "--fine-tune False": {"fine_tune": False},
    "--resume-epoch 21": {"resume_epoch": 21},
    "--resume-epoch -1": {"resume_epoch": -1},
    "--batch-size 48": {"batch_size": 48},
    "--long-cycles False": {"long_cycles": False},
    "--short-cycles True": {"short_cycles": True},
    "--lr-base 0.05": {"lr": 0.05},
    "--lr-steps 40,70": {"lr_steps": (40, 70)},
    "--lr-steps [40,70]": {"lr_steps": (40, 70)},
    "--lr-steps 40 70": {"lr_steps": (40, 70)},
    "--lr-steps=40,70": {"lr_steps": (40, 70)},
    "--lr-factor 1": {"lr_factor": (1.0,)},
    "--save-frequency 5": {"save_frequency": 5},
    "--end-epoch 60": {"epochs": 60},
    "--random-seed 7": {"seed": 7},
    "--max-iter 1000": {"max_steps": 1000},
    "--val-freq 50": {"test_every_steps": 50},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hacs", "kinetics", "ucf101"])
@pytest.mark.parametrize("words", PUBLISHED)
def test_every_published_argument(words, name):
    defaults, found = options_of(name), options_of(name, *words.split())
    assert {key: value for key, value in found.items() if value != defaults[key]} == {
        key: value for key, value in PUBLISHED[words].items() if value != defaults[key]
    }


def test_published_defaults():
    """The table of the published scripts."""
    columns = ("num_classes", "network", "size", "train_interval", "interval", "batch_size")
    columns += ("lr", "lr_steps", "epochs", "model_dir", "long_cycles", "short_cycles")
    small = (256, (2,), 2, 32, 0.1, (15, 30, 40), 100, "exps/models", False, False)
    table = {
        "hacs": (200, "r3d_50", 284, (1, 2), 2, 48, 0.1, (40, 60, 75, 90), 120, "results/HACS", True, True),
        "kinetics": (
            700,
            "r3d_50",
            284,
            (4, 5, 6),
            5,
            32,
            0.05,
            (40, 70, 95),
            130,
            "results/KINETICS-700",
            True,
            True,
        ),
        "moments": (339, "r3d_50", 284, (3, 4), 3, 48, 0.1, (25, 50, 70), 110, "exps/models", True, True),
        "ucf101": (101, "", *small),
        "hmdb51": (51, "", *small),
        "diving48": (48, "", *small),
    }
    for name, row in table.items():
        found = options_of(name)
        assert tuple(found[column] for column in columns) == row, name
        common = ("frames", "fine_tune", "resume_epoch", "lr_factor", "save_frequency", "seed")
        assert tuple(found[column] for column in common) == (16, False, -1, (0.1,), 1, 1)
        assert (found["momentum"], found["weight_decay"], found["optimizer"]) == (0.9, 1e-4, "sgd")
        assert (found["augment"], found["geometry"], found["val_geometry"]) == (name,) * 3


def test_variant_of_kinetics():
    found = options_of("kinetics", "--variant", "400")
    assert (found["num_classes"], found["model_dir"]) == (400, "results/KINETICS-400")
    kept = options_of("kinetics", "--variant", "400", "--num-classes", "5", "--model-dir", "mine")
    assert (kept["num_classes"], kept["model_dir"]) == (5, "mine")
    assert main(["train", "kinetics", "--variant", "500"]) == 2
    assert main(["train", "hacs", "--variant", "400"]) == 2


@pytest.mark.parametrize(
    "name", sorted(set(NAMES) - {"streaming", "segmentation", "detection", "flow"})
)  # data of the user have no program
def test_each_data_set_has_a_program(name, capsys):
    source = (ROOT / f"train/train_{name}.py").read_text()
    assert f'train_program("{name}")' in source
    assert main(["train", name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: vidseg train {name}" in text
    for option in flat_options(TASKS[NAMES[name]]):
        assert f"--{option.replace('_', '-')}" in text, option
    for group in ("data", "network", "schedule", "optimizer", "devices", "evaluation", "checkpoints", "monitors"):
        assert f" {group} options " in text
    assert ("--train-frame-inteval" in text) == (NAMES[name] == "recognition")


@pytest.mark.parametrize("words", [["train"], *(["train", name] for name in NAMES)], ids=" ".join)
def test_help_has_positional_arguments_and_no_none(words, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\[(shapes\|)?FOLDER\]", text) and "None" not in text and "(default: )" not in text


def test_help_lists_every_choice(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(re.sub("[│\n]", " ", capsys.readouterr().out).split())
    augment = text.partition("--augment ")[2].partition("--geometry ")[0]
    assert all(re.search(rf"\b{name}\b", augment) for name in augmentations.PRESETS)
    train, val = (text.partition(f"--{name} ")[2].partition("--")[0] for name in ("geometry", "val-geometry"))
    random = {"random_resized_crop", "short_side", "multi_scale"}
    assert all(re.search(rf"\b{name}\b", train) for name in GEOMETRIES)
    assert all(re.search(rf"\b{name}\b", val) for name in GEOMETRIES if name not in random)


def test_help_is_fast():
    code = "import sys, vidseg.cli.main as m; m.main(['train', 'hacs', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_program_runs_and_is_the_command():
    result = subprocess.run(
        [sys.executable, ROOT / "train/train_kinetics.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "train_kinetics.py" in result.stdout and "--variant" in result.stdout


def test_configuration_files(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "schedule:\n  lr-steps: [3, 5]\n  lr_base: 0.5\n  warmup-start: 1e-3\ntrain-frame-inteval: 3\n"
        "fine-tune: true\nnetwork: r3d_18\nvariant: 600\naugment: null\ngpus: 2\n"
    )
    found = options_of("kinetics", "--config", str(path), "--lr-base", "0.25")
    assert (found["lr_steps"], found["lr"], found["train_interval"]) == ((3, 5), 0.25, (3,))
    assert (found["fine_tune"], found["network"], found["num_classes"], found["augment"]) == (True, "r3d_18", 600, None)
    assert (found["warmup_start"], found["gpus"]) == (1e-3, "2")
    assert options_of("kinetics", "--lr-base", "0.25", f"--config={path}") == found  # flags take precedence anywhere
    record = tmp_path / "options.json"
    record.write_text(json.dumps({"task": "recognition", "options": found, "classes": ["a"]}))
    assert options_of(None, "--config", str(record)) == found
    cases = {
        "bacth-size: 3\n": "did you mean 'batch-size'",
        "[1, 2]": "holds no options",
        "a: [": "not a YAML file",
        "batch-size: many": r"run\.yaml: batch-size='many' is not of the type int",
        "fine-tune: 3": "fine-tune=3 is not of the type bool",
        "sampling: sparse": "sampling='sparse' is not one of dense, segments",
        "mean: [0.5, 0.5]": "expected 3 values",
        "lr: 0": "lr=0.0 must be above 0",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            prepare(["--config", str(path)], "hacs")
    with pytest.raises(FileNotFoundError, match="given with --config"):
        prepare(["--config", "absent.yaml"], "hacs")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not a JSON file"):
        prepare(["--config", str(tmp_path / "run.json")], "hacs")
    with pytest.raises(ValueError, match="holds options of a recognition run, not of segmentation"):
        prepare(["--config", str(record)], "gtea")


def test_the_record_of_a_run_never_replaces_a_run(tmp_path, caplog):
    """resume and overwrite are never taken from a file."""
    for name, text in (("options.json", '{"options": {"overwrite": true, "epochs": 3}}'), ("a.yaml", "resume: true")):
        (tmp_path / name).write_text(text)
        found = options_of(None, "--config", str(tmp_path / name))
        assert not found["overwrite"] and not found["resume"]
    assert "overwrite is ignored" in caplog.text and "resume is ignored" in caplog.text


def test_options_of_networks_and_losses_are_added_to_those_of_the_recipe():
    assert options_of("gtea", "--network", "asformer")["network_option"] == ("channel_dropout=0.5",)
    found = options_of("gtea", "--network", "asformer", "--network-option", "layers=8", "--network-option", "maps=32")
    assert found["network_option"] == ("channel_dropout=0.5", "layers=8", "maps=32")
    found = options_of("gtea", "--network", "asformer", "--network-option", "channel-dropout=0.1")
    assert found["network_option"] == ("channel-dropout=0.1",)
    found = options_of("50salads", "--network", "diffact", "--loss-option", "boundary_smooth=9")
    assert found["loss_option"] == ("soft_label=None", "boundary_smooth=9")
    assert options_of("synth", "--network-option", "width=0.5")["network_option"] == ("width=0.5", "placement=mid")


def test_train_synth_with_another_network_has_no_options_of_the_recipe():
    assert options_of("synth")["network_option"] == ("width=0.25", "placement=mid")
    assert options_of("synth", "--network", "r3d_18")["network_option"] == ()
    found = options_of("synth", "--network=r3d_18", "--network-option", "width=0.5")
    assert found["network_option"] == ("width=0.5",) and found["schedule"] == "cosine"


def test_lists_with_several_factors_and_steps():
    found = options_of(None, "--lr-steps", "[100, 200]", "--lr-factor", "0.1,0.5", "--max-steps", "300")
    assert (found["lr_steps"], found["lr_factor"], found["max_steps"]) == ((100, 200), (0.1, 0.5), 300)
    assert options_of("gtea", "--splits", "split1,split3")["splits"] == ("split1", "split3")


@pytest.mark.parametrize("name", ["hacs", "gtea", "stream", None])
def test_the_folder_is_an_argument_or_an_option_in_every_task(name, capsys):
    for words in (["data"], ["--dataset", "data"], ["--dataset=data"], ["data", "--dataset", "data"]):
        assert options_of(name, *words)["dataset"] == "data"
    with pytest.raises(ValueError, match="give one of them"):
        options_of(name, "data", "--dataset", "other")
    assert main(["train", *([name] if name else [])]) == 2
    assert "name the folder of the data set" in capsys.readouterr().err
    assert main(["train", *([name] if name else []), "--network-option", "width=0.5", "data"]) == 2
    assert "'data' is not of the form NAME=VALUE" in capsys.readouterr().err


def test_recipes_of_streaming_networks():
    found = options_of("stream", "--recipe", "50salads", "--network", "memory_tcn")
    assert (found["frames"], found["interval"], found["stride"], found["epochs"]) == (32, 20, 640, 70)
    assert options_of("stream", "--frames", "8")["stride"] is None  # windows still follow each other
    assert options_of("streaming")["network"] == "etesvs"


def test_wrong_names_of_networks_are_answered(capsys):
    assert main(["train", "gtea", "data", "--network", "mstnc"]) == 2
    assert "did you mean 'mstcn" in capsys.readouterr().err
    assert main(["train", "data", "--network", "srtg_r3d18"]) == 2
    assert "no network is called 'srtg_r3d18'" in capsys.readouterr().err
    assert main(["train", "data", "--network", "mstcn"]) == 2
    assert "mstcn is a network for segmentation" in capsys.readouterr().err


def test_recipes_are_whole():
    for recipe in RECIPES.values():
        assert recipe.title
    yaml.safe_dump(RECIPES["hacs"].options | {"lr_steps": [1], "train_interval": [1]})


def test_a_process_for_each_gpu(monkeypatch):
    command, environment = launch_command([0, 2], ["train_hacs.py", "--gpus", "0,2"], {"A": "b"})
    assert command[1:] == "-m torch.distributed.run --standalone --nproc-per-node 2 train_hacs.py --gpus 0,2".split()
    assert environment == {"A": "b", "CUDA_VISIBLE_DEVICES": "0,2"}
    assert launch_command([0, 1], [], {"CUDA_VISIBLE_DEVICES": "5,6,7"})[1]["CUDA_VISIBLE_DEVICES"] == "5,6"
    started = []
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)

    class Process:
        def __init__(self, command, env):
            started.append(env)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self):
            return 3

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert launch_processes("2") == 3 and started[0]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert launch_processes(None) == 3 and started[1]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert launch_processes("1") is launch_processes("3,") is launch_processes("0") is None
    monkeypatch.setenv("RANK", "1")
    assert launch_processes("2") is None and len(started) == 2


# Whole runs on a data set laid out as UCF-101

SHORT = "--network r3d_18 --network-option width=0.125 --clip-length 4 --clip-size 32 --batch-size 6 --end-epoch 2"
SHORT += " --lr-base 0.05 --threads 1 --num-classes 8"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("programs"), videos=24)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    words = ["train", "ucf101", "--dataset", str(root), *SHORT.split(), "--model-dir", str(out)]
    assert main([*words, "--task-name", "first"]) == 0
    return out / "r3d_18_first"


def states(*paths):
    return [torch.load(path, weights_only=True)["state_dict"] for path in paths]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_a_run_of_a_program(run):
    record = json.loads((run / "options.json").read_text())
    options = record["options"]
    assert record["task"] == "recognition" and record["network_options"] == {"width": 0.125}
    assert options["augment"] == options["geometry"] == "ucf101" and options["lr_steps"] == [15, 30, 40]
    assert not {"resume", "overwrite", "resume_epoch", "dry_run"} & options.keys()
    assert {path.name for path in run.glob("*.pth")} == {
        "r3d_18_best.pth",
        "r3d_18_ep-0001.pth",
        "r3d_18_ep-0002.pth",
        "r3d_18_last.pth",
    }
    log = (run / "train.log").read_text()
    assert "group all: " in log  # debug mode
    assert "; 1 batch per epoch\n" in log and log.rstrip().endswith(f"vidseg test {run}")


def test_a_run_prints_its_folder_and_best_scores_as_json(root, tmp_path, capsys):
    words = ["train", str(root), *SHORT.split(), "--out", str(tmp_path / "run"), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    with (tmp_path / "run/val_results_s0001.csv").open() as file:
        rows = [{key.lower(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert found["folder"] == str(tmp_path / "run") and found["scores"] == max(rows, key=lambda row: row["top1"])


def test_resuming_from_the_folder_and_from_an_epoch(root, run, tmp_path):
    shutil.copytree(run, tmp_path / "r3d_18")
    words = ["train", "ucf101", "--dataset", str(root), *SHORT.split(), "--model-dir", str(tmp_path)]
    last = tmp_path / "r3d_18/r3d_18_ep-0002.pth"
    (expected,) = states(last)
    last.unlink()
    # the published way: the epoch to continue with, and the checkpoint before it
    before = tmp_path / "r3d_18/r3d_18_ep-0001.pth"
    assert main([*words, "--resume-epoch", "2", "--pretrained_3d", str(before)]) == 0
    assert_equal(states(last)[0], expected)
    assert "continuing with epoch [2], batch [0]" in (tmp_path / "r3d_18/train.log").read_text()
    last.unlink()
    assert main([*words, "--resume-epoch", "2"]) == 0
    assert main([*words, "--resume", "--end-epoch", "3"]) == 0
    assert torch.load(tmp_path / "r3d_18/r3d_18_last.pth", weights_only=True)["epoch"] == 3
    with (tmp_path / "r3d_18/val_results_s0003.csv").open() as file:
        assert [row["Epoch"] for row in csv.DictReader(file)] == ["3"]


def test_resume_without_options_continues_the_run_bit_equal(root, run, tmp_path, caplog):
    """The options of the run are not replaced by defaults."""
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    for folder in (stopped, whole):
        shutil.copytree(run, folder)
    for name in ("r3d_18_ep-0002.pth", "r3d_18_best.pth"):
        (stopped / name).unlink()
    shutil.move(stopped / "r3d_18_ep-0001.pth", stopped / "r3d_18_last.pth")
    before = json.loads((stopped / "options.json").read_text())
    assert main(["train", str(root), "--resume", "--out", str(stopped)]) == 0
    assert_equal(*states(stopped / "r3d_18_last.pth", whole / "r3d_18_last.pth"))
    after = json.loads((stopped / "options.json").read_text())
    changed = {name for name, value in after["options"].items() if before["options"][name] != value}
    assert changed <= {"out", "model_dir", "task_name"} and after["changes"] == []
    assert after["network_options"] == before["network_options"]


def test_resume_with_one_flag_changes_one_option(root, run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "run")
    words = ["train", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3", "--network-option", "width=0.125"]
    assert main(words) == 0
    assert "resumed with other options: epochs: 2 -> 3" in caplog.text
    record = json.loads((tmp_path / "run/options.json").read_text())
    assert record["options"]["epochs"] == 3 and record["options"]["frames"] == 4
    assert record["changes"][-1]["epochs"] == [2, 3]


@pytest.mark.parametrize(
    "change, message",
    [
        (["--network", "r3d_34"], "has network="),
        (["--network-option", "width=0.25"], "has network_options="),
        (["--frames", "8"], "has input="),
        (["--train-split", "test", "--val-split", "train"], "has data="),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_resume_refuses_another_network_or_input_before_anything_is_written(run, tmp_path, capsys, change, message):
    shutil.copytree(run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--epochs", "3", *change]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_resume_refuses_a_run_of_another_task(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    assert main(["train", "stream", "data", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "that run is for recognition with r3d_18, not for streaming" in capsys.readouterr().err


def test_overwrite_is_not_repeated_by_the_record_of_a_run(root, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    words = ["train", str(root), "--config", str(tmp_path / "run/options.json"), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "holds a run" in capsys.readouterr().err
    assert (tmp_path / "run/r3d_18_last.pth").read_bytes() == (run / "r3d_18_last.pth").read_bytes()


# Tests and predictions


def test_views_are_averaged(run, capsys):
    assert main(["test", str(run), "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["test", str(run), "--clips", "2", "--crops", "3", "--json"]) == 0
    six = json.loads(capsys.readouterr().out)
    assert [(each["clips"], each["crops"]) for each in (one, six)] == [(1, 1), (2, 3)]
    assert one["videos"] == six["videos"] == 16 and one["loss"] != six["loss"]
    assert (run / "mistakes_2x3.png").is_file() == bool(six["mistakes"])
    assert main(["test", str(run), "--crops", "4"]) == 2
    assert "crops" in capsys.readouterr().err


def test_zero_clips_are_refused(run, capsys):
    assert main(["test", str(run), "--clips", "0"]) == 2
    assert "clips=0 must be at least 1" in capsys.readouterr().err


def test_several_tests_of_a_run_keep_their_own_files(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    for path in [*(tmp_path / "run").glob("test*.json"), *(tmp_path / "run").glob("mistakes*")]:
        path.unlink()
    words = ["test", str(tmp_path / "run"), "--worst", "0"]
    last = str(tmp_path / "run/r3d_18_last.pth")
    for more in ([], ["--clips", "2"], ["--split", "train"], ["--checkpoint", last], ["--frames", "8"]):
        assert main([*words, *more]) == 0
    found = {path.name for path in (tmp_path / "run").glob("test*.json")}
    names = {"test.json", "test_2x1.json", "test_train.json", "test_r3d_18_last.json", "test_frames8.json"}
    assert found == names and not list((tmp_path / "run").glob("mistakes*.png"))
    assert json.loads((tmp_path / "run/test_train.json").read_text())["videos"] == 8


def test_the_output_says_on_which_split_the_checkpoint_was_selected(run, capsys):
    assert main(["test", str(run)]) == 0
    assert "This split also selected the checkpoint" in capsys.readouterr().out
    assert main(["test", str(run), "--split", "train"]) == 0
    assert "also selected" not in capsys.readouterr().out


def test_scores_of_every_video_are_dumped_fused_and_scored(run, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("a.npz", "b.csv")]
    assert main(["test", str(run), "--dump", files[0], "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert main(["test", str(run), "--clips", "2", "--dump", files[1]]) == 0
    capsys.readouterr()
    assert main(["score", files[0], "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["top1"] == pytest.approx(tested["top1"]) and alone["videos"] == 16
    fused = str(tmp_path / "c.npz")
    assert main(["score", *files, "--weights", "3", "1", "--dump", fused]) == 0
    assert "2 networks, 16 videos" in capsys.readouterr().out
    with np.load(files[0]) as first, np.load(fused) as both, open(files[1], newline="") as file:
        rows = {row["video"]: [float(row[name]) for name in first["classes"]] for row in csv.DictReader(file)}
        expected = 0.75 * first["scores"] + 0.25 * np.array([rows[video] for video in first["videos"]])
        assert np.allclose(both["scores"], expected, atol=1e-6)
    for words in (["--weights", "1"], ["--dump", "x.txt"]):
        assert main(["score", *files, *words]) == 2
    assert main(["test", str(run), "--dump", "scores.txt"]) == 2
    assert "written as .npz or .csv" in capsys.readouterr().err
    (tmp_path / "bad.npz").write_text("no scores")
    (tmp_path / "bad.csv").write_text("video,label,a\nx,,much\n")
    for name in ("bad.npz", "bad.csv", "absent.npz"):
        assert main(["score", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err


def test_pictures_of_a_run(run, capsys):
    assert main(["test", str(run)]) == 0
    capsys.readouterr()
    for kind in ("curves", "speed", "confusion"):
        assert main(["plot", kind, str(run)]) == 0
        assert Path(capsys.readouterr().out.strip()).stat().st_size > 5000
    assert main(["plot", "segments", str(run)]) == 2
    assert "a recognition run has one class per video" in capsys.readouterr().err


def test_info_describes_a_run_and_its_checkpoints(run, tmp_path, capsys):
    for path, kind in ((run, "run"), (run / "r3d_18_last.pth", "checkpoint of a run")):
        assert main(["info", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["kind"], facts["task"], facts["network"]) == (kind, "recognition", "r3d_18")
        assert (facts["classes"], facts["input frames"], facts["input size"]) == (8, 4, 32)
        assert facts["network options"] == "width=0.125" and "best score" in facts
    assert facts["epoch"] == 2
    torch.save(states(run / "r3d_18_last.pth")[0], tmp_path / "plain.pth")
    assert main(["info", str(tmp_path / "plain.pth"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["network"], facts["classes"]) == ("weights", "r3d_18", 8)


def test_predict_video_files(root, run, tmp_path, capsys):
    """The same predictions as for the converted videos, up to JPEG; a file that is no video is named and counted."""
    source, dumped = root.parent / "source/videos", tmp_path / "scores.csv"
    words = ["predict", str(source), "--weights", str(run), "--json", "--top", "3", "--dump", str(dumped)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == len(dumped.read_text().splitlines()) - 1 == 24
    assert all(len(video["classes"]) == 3 for video in found)
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


def test_stream_with_a_recognition_network_labels_a_sliding_window(root, run, tmp_path, capsys):
    video = str(next((root.parent / "source/videos/pulse").iterdir()))
    words = ["predict", "--stream", video, "--weights", str(run), "--json", "--draw", str(tmp_path / "drawn.mp4")]
    assert main([*words, "--stride", "5"]) == 0
    *windows, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary["labeled"] == summary["frames"] == 20 and len(windows) == 4
    assert [window["first_frame"] for window in windows] == [0, 5, 10, 15]
    assert (tmp_path / "drawn.mp4").stat().st_size > 1000
    assert main([*words, "--stride", "0"]) == 2


def test_weights_that_do_not_hold_their_network(run, tmp_path, capsys):
    torch.save(states(run / "r3d_18_best.pth")[0], tmp_path / "plain.pth")
    video = str(tmp_path / "clip.mp4")
    Path(video).touch()
    assert main(["predict", video, "--weights", str(tmp_path / "plain.pth")]) == 2
    assert "give it with --network" in capsys.readouterr().err
    assert main(["predict", video, "--weights", str(tmp_path / "absent.pth")]) == 2
    assert main(["predict", str(tmp_path / "absent.mp4"), "--weights", str(run)]) == 2
    words = ["predict", video, "--weights", str(tmp_path / "plain.pth"), "--network", "r3d_18"]
    assert main([*words, "--network-option", "width=0.125", "--classes", str(tmp_path / "absent.txt")]) == 2
    assert "absent.txt: no such file of class names" in capsys.readouterr().err
    assert main([*words, "--network-option", "width=0.25"]) == 2  # weights of another shape


@pytest.mark.slow
def test_options_of_another_task_are_refused(run, tmp_path, capsys):
    features = segmentation_dataset(tmp_path / "gtea")
    out = str(tmp_path / "out")
    words = ["train", "gtea", str(features), "--epochs", "1", "--splits", "split1", "--validation-share", "0.25"]
    assert main([*words, "--network-option", "layers=2", "maps=8", "stages=2", "--out", out, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mstcn on gtea") and printed.splitlines()[-1] == out
    for option in (["--clips", "2"], ["--crops", "3"], ["--fuse", "logits"], ["--dump", "a.npz"], ["--worst", "3"]):
        assert main(["test", f"{out}/split1", *option]) == 2
        assert f"{option[0]}: this test has no such option; mstcn is a network for segmentation" in (
            capsys.readouterr().err
        )
    assert main(["test", f"{out}/split1", "--frames", "8"]) == 2
    assert "mstcn: its input cannot be changed (frames)" in capsys.readouterr().err
    feature = str(features / "features/S1_Tea_0.npy")
    assert main(["predict", feature, "--weights", f"{out}/split1", "--draw", "a"]) == 2
    assert main(["predict", feature, "--weights", f"{out}/split1", "--top", "3"]) == 2
    assert main(["predict", str(run), "--weights", str(run), "--out", "a"]) == 2
    assert main(["extract-features", str(features), "--weights", f"{out}/split1"]) == 2
    assert "not for recognition" in capsys.readouterr().err
    assert main(["predict", "--stream", "a.mp4", "--weights", f"{out}/split1"]) == 2

    # tested, predicted, described and drawn
    assert main(["test", f"{out}/split1", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert main(["predict", str(features / "features"), "--weights", f"{out}/split1", "--out", out + "/txt"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    labels = (Path(out) / "txt/S1_Tea_0.txt").read_text()
    assert labels == (Path(out) / "split1/predictions/S1_Tea_0-pred.txt").read_text()
    assert main(["predict", feature, "--weights", f"{out}/split1", "--json"]) == 0
    ((video,),) = [json.loads(capsys.readouterr().out)]
    assert video["video"] == "S1_Tea_0" and video["frames"] == video["segments"][-1]["stop"] == len(labels.splitlines())
    for kind in ("curves", "speed", "confusion", "segments"):
        assert main(["plot", kind, f"{out}/split1"]) == 0
        assert Path(capsys.readouterr().out.strip()).stat().st_size > 5000
    assert main(["info", f"{out}/split1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["task"], facts["epoch"], facts["division"]) == ("segmentation", 1, "split1")
    assert main(["info", out, "--json"]) == 0
    assert f"acc {tested['scores']['acc']:.2f}" in json.loads(capsys.readouterr().out)["split1"]

    # another network over this run
    before = sorted(path.name for path in Path(out).rglob("*"))
    assert main([*words, "--network", "asformer", "--resume", "--out", out]) == 2
    assert 'has network="mstcn", now it is "asformer"' in capsys.readouterr().err
    assert sorted(path.name for path in Path(out).rglob("*")) == before
    # the run's options, one of them changed
    assert main(["train", "--resume", "--out", out, "--epochs", "2"]) == 0
    record = json.loads((Path(out) / "split1/options.json").read_text())
    assert (record["options"]["epochs"], record["options"]["validation_share"]) == (2, 0.25)
    assert record["network_options"] == {"layers": 2, "maps": 8, "stages": 2}


@pytest.mark.slow
def test_tsn_takes_segments_in_training_and_tests(root, tmp_path, capsys):
    out = tmp_path / "tsn"
    words = ["train", str(root), "--network", "tsn_r50", "--network-option", "width=0.125", "--size", "32"]
    assert main([*words, "--batch-size", "8", "--epochs", "1", "--lr", "0.01", "--out", str(out)]) == 0
    spec = json.loads((out / "options.json").read_text())["input"]
    assert (spec["sampling"], spec["frames"]) == ("segments", 3)
    assert main(["test", str(out), "--frames", "8"]) == main(["test", str(out), "--frames", "8", "--clips", "2"]) == 0
    assert main(["test", str(out), "--sampling", "dense", "--interval", "2", "--json"]) == 0
    names = {path.name for path in out.glob("test*.json")}
    assert {"test_frames8.json", "test_2x1_frames8.json"} < names
    assert any("samplingdense" in name for name in names)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", ["info", "."]),
        ("{", ["test", "."]),
        ("{", ["train", "--resume", "--out", "."]),
        ("{}", ["info", "."]),
        ("[]", ["test", "."]),
    ],
)
def test_a_damaged_record_is_named(tmp_path, monkeypatch, capsys, text, words):
    (tmp_path / "options.json").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "options.json: " in capsys.readouterr().err


def test_a_warm_up_longer_than_the_run_writes_nothing(root, tmp_path, capsys):
    words = ["train", str(root), *SHORT.split(), "--warmup-epochs", "9", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "longer than the run" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_network_option_of_the_wrong_type_is_a_sentence(root, tmp_path, capsys):
    for option in ("width=wide", "width=[1]", "width"):
        words = ["train", str(root), "--network", "r3d_18", "--network-option", option, "--out", str(tmp_path / "run")]
        assert main(words) == 2, option
        error = capsys.readouterr().err
        assert "Traceback" not in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing_but_its_picture(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "hacs", "--dataset", str(root), "--num-classes", "8", "--batch-size", "1", "--clip-size", "32"]
    words += ["--train-split", "test", "--short-cycles", "False"]
    assert main([*words, "--dry-run", "--end-epoch", "50"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ +1-40 +\d+ +\d+ +8, 4, 22, 22 +1\.00e-1$", text, re.M)
    assert re.search(r"^ +41-50 +\d+ +\d+ +8, 4, 22, 22 +1\.00e-2$", text, re.M)
    assert main([*words, "--dry-run", "--end-epoch", "50", "--cycle-epochs", "45"]) == 0
    assert re.search(r"^ +46-50 +(\d+) +\1 +1, 16, 32, 32 +1\.25e-3$", capsys.readouterr().out, re.M)
    assert "schedule.png" in text and [path.name for path in tmp_path.iterdir()] == ["schedule.png"]


def test_a_dry_run_of_features_prints_batches_steps_and_rates(tmp_path, capsys, monkeypatch):
    root = segmentation_dataset(tmp_path / "gtea")
    monkeypatch.chdir(tmp_path)
    words = ["train", "gtea", str(root), "--dry-run", "--epochs", "4", "--splits", "split1", "--lr", "0.5"]
    assert main([*words, "--lr-steps", "2", "--accumulate", "2", "--validation-share", "0.25"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["split1:"],
        ["epochs", "batches", "steps", "learning", "rate"],
        ["1-2", "3", "2", "5.00e-1"],
        ["3-4", "3", "2", "5.00e-2"],
        "8 steps in 4 epochs".split(),
    ]
    assert main([*words, "--select", "last", "--max-steps", "6", "--schedule", "cosine"]) == 0
    assert "6 steps in 2 epochs" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["gtea"]


@pytest.mark.slow
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
    assert two.stdout.strip() == str(tmp_path / "two")  # one of them prints
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    tables = []
    for name in ("one", "two"):
        with (tmp_path / name / "train_results_s0001.csv").open() as file:
            tables.append([float(value) for value in list(csv.reader(file))[1]])
    assert tables[1] == pytest.approx(tables[0], rel=1e-3)


def test_official_splits_of_ucf101_are_found(root, tmp_path):
    """Splits as converters/ucf101.py names them."""
    from vidseg.labels import LabelRow, apply_labels, open_dataset, scan_catalog
    from vidseg.tasks.recognition.data import choose_splits
    from vidseg.tasks.recognition.recipes import recipe_options

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
    options = recipe_options("ucf101", dataset=str(tmp_path / "data"), num_classes=8)
    splits = choose_splits(options.data, seed=1)
    assert (splits.train.split_name, splits.validation.split_name) == ("split1/train", "split1/test")
    assert len(splits.train) == len(splits.validation) == 12 and splits.test is None


def test_a_missing_video_is_named(root, tmp_path, capsys):
    shutil.copytree(root, tmp_path / "data")
    gone = next((tmp_path / "data/jpg/pulse").glob("*/frames.db"))
    gone.unlink()
    words = ["train", str(tmp_path / "data"), *SHORT.split(), "--train-split", "train", "--out", str(tmp_path / "run")]
    assert main([*words, "--val-split", "train"]) in (1, 2)
    assert str(gone) in capsys.readouterr().err


def test_training_straight_from_video_files(root, tmp_path):
    """The option instead of a conversion; classes and numbers of videos are the same."""
    words = ["train", str(root.parent / "source/videos"), *SHORT.split(), "--backend", "video", "--end-epoch", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "options.json").read_text())["options"]["backend"] == "video"
    assert "8 classes" in (tmp_path / "train.log").read_text()
