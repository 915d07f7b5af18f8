"""The config.yaml of the published TSN code: its keys as options, list files as splits, and a run from it."""

import inspect
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import vidseg
from vidseg.cli.main import main
from vidseg.cli.train import prepare
from vidseg.convert import convert_videos
from vidseg.engine.schedules import Schedule
from vidseg.labels.list_splits import open_lists
from vidseg.tasks.recognition.published_config import KEYS, published_config_options

PUBLISHED = """
common:
    model:
        type: tsn  # tsm, slowfast
        backbone: mobilenetv2  # backbone

        num_segments: 3
        num_class: 152
        dropout: 0.8
        pretrained: True

        kwargs:
            bn_group_size: 16  # sync_bn group size
            bn_sync_stats: True
            t: 6

    augmentation:
        input_size: 224
        test_resize: 256
        colorjitter: [0.2, 0.2, 0.2, 0.1]  # colorjitter
        random_erasing: [0.5, 0.02, 0.4, 0.3]  # random erasing
        mix_up: 0.2  # mix up

    val_dense: False  # dense validation

    workers: 3
    batch_size: 32

    lr_scheduler:  # learning schedule
        type: COSINE

        base_lr: 0.01
        warmup_steps: 500
        warmup_lr: 0.04
        min_lr: 0.0
        max_iter: 15010

    label_smooth: 0.1  # label smooth
    no_wd: True  # without weight decay for bias
    momentum: 0.9
    weight_decay: 0.0001
    nesterov: True

    val_freq: 250
    print_freq: 10

    train_root: /
    train_source: lists/rgb_train.txt
    val_root: /
    val_source: lists/rgb_val.txt
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A function that writes a config.yaml with changes of dotted keys, None to leave one out; returns its path."""
    (tmp_path / "lists").mkdir()
    for name in ("train", "val"):
        (tmp_path / f"lists/rgb_{name}.txt").write_text("frames/a 4 0\n")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained/mobilenet_v2-b0353104.pth").touch()
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        content = yaml.safe_load(PUBLISHED)
        for key, value in changes.items():
            *sections, name = key.split("__")
            part = content["common"]
            for section in sections:
                part = part[section]
            part[name] = value
            if value is None:
                del part[name]
        path = tmp_path / "exps/one/config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def resolved(path, *words):
    """The options of `vidseg train` with this file."""
    prepared = prepare(["--config", str(path), *words])
    return prepared.default


def test_the_published_file_is_understood_key_by_key(experiment):
    options = resolved(experiment())
    assert options.network.network == "tsn_mobilenet_v2" and options.network.network_option == ("dropout=0.8",)
    assert options.network.pretrained == "pretrained/mobilenet_v2-b0353104.pth"
    assert (options.input.frames, options.input.sampling, options.input.size, options.input.resize) == (
        3, "segments", 224, 256,
    )  # fmt: skip
    assert options.augmentation.color_jitter == (0.2, 0.2, 0.2, 0.1)
    assert options.augmentation.random_erasing == (0.5, 0.02, 0.4, 0.3)
    assert (options.loss.mixup, options.loss.label_smoothing) == (0.2, 0.1)
    assert options.data.num_classes == 152 and options.data.geometry == "multi_scale"
    assert (options.data.process_batch_size, options.data.batch_size, options.data.threads) == (32, None, 3)
    assert options.data.train_lists == ("lists/rgb_train.txt",) and options.data.val_lists == ("lists/rgb_val.txt",)
    assert options.data.train_root == options.data.val_root == "/"
    assert (options.data.val_frames, options.data.val_clips, options.data.val_crops) == (None, 1, 1)
    assert options.devices.sync_bn and options.devices.bn_group_size == 16
    optimizer = options.optimizer
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.nesterov, optimizer.decay_all) == (
        0.9, 1e-4, True, False,
    )  # fmt: skip
    assert options.session.max_steps == 15010 and options.monitors.log_every == 10
    assert options.evaluation.test_every_steps == options.checkpoints.checkpoint_every == 250
    assert options.evaluation.test_every > 15010  # not at ends of epochs
    assert options.checkpoints.run_files == "experiment" and options.monitors.tensorboard
    assert options.session.out.endswith("exps/one")


SCHEDULES = json.loads((Path(__file__).parent / "golden/training_math.json").read_text())["lr_schedule"]


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case["params"]["type"])
def test_rates_are_those_of_the_format(case, experiment):
    given = {f"lr_scheduler__{name}": value for name, value in case["params"].items()}
    options = resolved(experiment(**given))
    schedule = Schedule(options.schedule, options.session.max_steps, "step")
    for step, rate in case["points"]:
        assert schedule.rate(step) == pytest.approx(rate, rel=1e-6, abs=1e-12)


def test_the_warm_up_ends_at_warmup_lr_and_without_one_the_highest_rate_is_base_lr(experiment, caplog):
    options = resolved(experiment())
    assert (options.schedule.warmup_start, options.schedule.lr) == (0.01, 0.04)
    options = resolved(experiment(lr_scheduler__warmup_steps=0))
    assert (options.schedule.warmup_steps, options.schedule.lr) == (0, 0.01)
    assert "warmup_lr=0.04 has no effect: without warmup_steps the highest rate is base_lr" in caplog.text
    resolved(experiment(lr_scheduler__base_lr=0.1))
    assert "the warm-up falls from base_lr=0.1 to warmup_lr=0.04" in caplog.text


@pytest.mark.parametrize(
    "changes, network, views",
    [
        ({"val_dense": True}, "tsn_mobilenet_v2", (25, 1, 10)),
        ({"val_dense": True, "model__type": "tsm"}, "tsm_mobilenet_v2", (None, 10, 3)),
        ({"model__backbone": "resnet34", "model__pretrained": False}, "tsn_r34", (None, 1, 1)),
        ({"model__backbone": "resnet101", "model__type": "tsm", "model__pretrained": "w.pth"}, "tsm_r101", None),
        (
            {"val_dense": True, "model__backbone": "resnet50", "model__type": "slowfast"},
            "slowfast_r50_4x16",
            (None, 10, 3),
        ),
    ],
)
def test_networks_and_dense_validation(changes, network, views, experiment):
    options = resolved(experiment(**changes))
    assert options.network.network == network
    if views is not None:
        assert (options.data.val_frames, options.data.val_clips, options.data.val_crops) == views
    else:
        assert options.network.pretrained == "w.pth"


def test_flags_come_before_the_file(experiment):
    prepared = prepare(["--config", str(experiment()), "--lr", "0.2", "--no-nesterov", "--out", "elsewhere"])
    assert {"--lr", "--no-nesterov", "--out"} <= set(prepared.words)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label_smoth": 0.1}, "there is no key 'common.label_smoth'; did you mean 'common.label_smooth'?"),
        (
            {"lr_scheduler__max_iters": 3},
            "'common.lr_scheduler.max_iters'; did you mean 'common.lr_scheduler.max_iter'",
        ),
        ({"model__kwargs__bn_groupsize": 3}, "did you mean 'common.model.kwargs.bn_group_size'?"),
        ({"augmentaton": {"input_size": 3}}, "there is no key 'common.augmentaton'"),
        ({"model__type": "tsx"}, "common.model.type='tsx' is not one of tsn, tsm, slowfast"),
        ({"model__backbone": "vgg"}, "common.model.backbone='vgg' is not one of resnet18, resnet34"),
        ({"lr_scheduler__type": "EXP"}, "common.lr_scheduler.type='EXP' is not COSINE or STEP"),
        ({"lr_scheduler__max_iter": None}, "common.lr_scheduler.max_iter is missing"),
        ({"lr_scheduler__base_lr": "fast"}, "common.lr_scheduler.base_lr='fast' is not a number"),
        ({"model__kwargs__bn_group_size": 0}, "bn_group_size=0 is not a number of processes"),
        ({"model__kwargs__t": 4}, "common.model.kwargs.t=4 is not 6"),
        ({"no_wd": "maybe"}, "common.no_wd='maybe' is not true or false"),
        (
            {"augmentation__colorjitter": [0.2, 0.2, 0.2, 0.7]},
            "color_jitter=(0.2, 0.2, 0.2, 0.7): hue=0.7 must be 0 to",
        ),
        ({"augmentation__colorjitter": [0.2]}, "expected 4 values (brightness, contrast, saturation, hue)"),
        ({"augmentation__random_erasing": [1.5]}, "probability=1.5 must be 0 to 1"),
        ({"augmentation__random_erasing": [0.5, 0.4, 0.02]}, "the smallest area is above the largest"),
        ({"label_smooth": 1.0}, "label_smoothing=1.0 must be in [0, 1)"),
        ({"train_source": "nowhere.txt"}, "nowhere.txt: no such file, given with common.train_source"),
        ({"model__backbone": "resnet18"}, "there is no pretrained/resnet18-5c106cde.pth in the current folder"),
    ],
)
def test_wrong_files_are_refused_in_words(changes, message, experiment, capsys):
    assert main(["train", "data", "--config", str(experiment(**changes))]) == 2
    assert message in capsys.readouterr().err


def test_keys_without_a_meaning_here_are_named(experiment, caplog):
    resolved(experiment(fp16=True, fusion_list=["a"], model__backbone="resnet50", model__pretrained=False))
    assert "common.fp16 has no meaning in a file of options: --opt-level O1 computes in float16" in caplog.text
    assert "common.fusion_list has no meaning" in caplog.text and "common.model.kwargs.t=6 has no effect" in caplog.text
    caplog.clear()
    resolved(experiment(model__type="slowfast", model__backbone="resnet50", lr_scheduler__type="STEP"))
    for key in ("model.num_segments", "model.pretrained", "lr_scheduler.min_lr"):
        assert f"common.{key}=" in caplog.text


def test_every_key_of_the_table_is_read(tmp_path):
    """A key that only stands in the table would be an option that does nothing."""
    text = inspect.getsource(published_config_options.__globals__["_Reader"])
    for key, option in KEYS.items():
        assert option is not None or f'"{key}"' in text or key.startswith(("train_source", "val_source")), key


# List files as splits


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Folders of frames img_00001.jpg of three classes, their lists with a class list that counts from 1, converted."""
    folder = tmp_path_factory.mktemp("lists")
    numbers = random.Random(0)
    (folder / "lists").mkdir()
    lines = {"train": [], "val": []}
    for video in range(12):
        name = f"v clip_{video}"  # with a blank
        (folder / "frames" / name).mkdir(parents=True)
        for frame in range(4):
            shade = 70 * (video % 3) + numbers.randrange(20)
            Image.new("RGB", (48, 40), (shade, shade, 200 - shade)).save(
                folder / f"frames/{name}/img_{frame + 1:05d}.jpg"
            )
        lines["val" if video > 8 else "train"].append(f"{name} 4 {video % 3}")
    for name, found in lines.items():
        (folder / f"lists/rgb_{name}.txt").write_text("\n".join(found) + "\n")
    (folder / "lists/classInd.txt").write_text("1 run\n2 jump\n3 sit\n")
    for name in lines:
        report = convert_videos(
            folder / f"lists/rgb_{name}.txt", folder / "data", videos=str(folder / "frames"), workers=1, first_number=0
        )
        assert report.ok
    return folder


def test_lists_are_splits_of_the_converted_data_set(frames):
    data = open_lists(frames / "data", [frames / "lists/rgb_train.txt"], num_classes=3)
    assert len(data) == 9 and data.classes == ["run", "jump", "sit"]
    for row in range(len(data)):
        assert data[row].label == int(data[row].name.rpartition("_")[2]) % 3
    both = open_lists(frames / "data", [frames / f"lists/rgb_{name}.txt" for name in ("train", "val")])
    assert len(both) == 12


@pytest.mark.parametrize(
    "line, message",
    [
        ("v clip_0 4 3", "label 3 is not from 0 to 2 (num_classes=3)"),
        ("v clip_99 4 1", "has no video 'v clip_99'; convert them: vidseg convert "),
        ("v clip_0 four one", "is not of the form PATH NUM_FRAMES LABEL or PATH LABEL"),
        ("v clip_0 4 1\nv clip_0 4 2", "label 2, but "),
    ],
)
def test_wrong_lists_are_refused_by_line(frames, tmp_path, line, message):
    shutil.copy(frames / "lists/classInd.txt", tmp_path)
    (tmp_path / "train.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"train\.txt:\d: ") as error:
        open_lists(frames / "data", [tmp_path / "train.txt"], num_classes=3)
    assert message in str(error.value)


def test_another_number_of_frames_is_reported(frames, tmp_path, caplog):
    (tmp_path / "train.txt").write_text("v clip_0 9 1\n")
    open_lists(frames / "data", [tmp_path / "train.txt"])
    assert "has 4, the list says 9" in caplog.text


def test_without_a_data_set_the_commands_that_make_it_are_printed(frames, experiment, capsys):
    assert main(["train", "--config", str(experiment())]) == 2
    message = capsys.readouterr().err
    assert (
        "`vidseg convert lists/rgb_train.txt DATA --videos / --first-number 0 && vidseg convert lists/rgb_val"
        in message
    )


@pytest.fixture(scope="module")
def run(frames):
    """A run of a small config.yaml in its experiment folder."""
    content = yaml.safe_load(PUBLISHED)["common"]
    content["model"] |= {"backbone": "resnet50", "num_class": 3, "pretrained": False}
    content["model"]["kwargs"] = {"bn_group_size": 16, "bn_sync_stats": True, "width": 0.125}
    content["augmentation"] |= {"input_size": 32, "test_resize": 36}
    content["lr_scheduler"] |= {"warmup_steps": 2, "max_iter": 5}
    content |= {"batch_size": 3, "workers": 1, "val_freq": 2, "print_freq": 1}
    content |= {"train_source": [str(frames / "lists/rgb_train.txt")], "val_source": str(frames / "lists/rgb_val.txt")}
    folder = frames / "exps/tsn_r50"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"common": content}))
    assert main(["train", str(frames / "data"), "--config", str(folder / "config.yaml")]) == 0
    return folder


def test_the_experiment_folder_has_its_files(run):
    names = {path.name for path in run.iterdir()}
    assert {"ckpt.pth.tar", "ckpt_best.pth.tar", "events", "log.txt", "config.yaml", "options.json"} <= names
    assert not list(run.glob("*.pth")) and len(list((run / "events").iterdir())) == 1
    log = (run / "log.txt").read_text()
    assert len(re.findall(r"Epoch \[\d\]:  \(val\)  average", log)) == 3  # after 2 and 4 iterations and at the end
    content = torch.load(run / "ckpt.pth.tar", weights_only=True)
    assert (content["step"], content["arch"]) == (5, "tsn_r50") and 0 <= content["best_prec1"] <= 100
    assert all(key.startswith("module.") for key in content["state_dict"])
    assert {"param_groups", "state"} <= content["optimizer"].keys()


def test_the_run_is_tested_resumed_and_its_weights_load(run, frames, capsys, tmp_path):
    assert main(["test", str(run), "--frames", "25", "--crops", "10"]) == 0
    assert "3 videos, 10 views each" in capsys.readouterr().out
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "config.yaml").write_text((run / "config.yaml").read_text().replace("max_iter: 5", "max_iter: 7"))
    words = ["train", str(frames / "data"), "--config", str(copy / "config.yaml"), "--resume"]
    assert main(words) == 0
    assert torch.load(copy / "ckpt.pth.tar", weights_only=True)["step"] == 7
    log = (copy / "log.txt").read_text()
    assert log.startswith((run / "log.txt").read_text()) and "continuing with epoch" in log
    model = vidseg.create_model("tsn_r50", num_classes=3, width=0.125)
    assert vidseg.load_weights(model, run / "ckpt_best.pth.tar", network="tsn_r50").filled == 1.0


def test_the_batch_is_per_process_and_the_optimizer_is_the_format_s(run):
    record = json.loads((run / "options.json").read_text())
    assert record["options"]["process_batch_size"] == 3 and record["classes"] == ["run", "jump", "sit"]
    content = torch.load(run / "ckpt.pth.tar", weights_only=True)
    groups = content["optimizer"]["param_groups"]
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 1e-4]  # none on biases and norms
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in groups)
