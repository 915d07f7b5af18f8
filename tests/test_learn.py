"""`vidseg learn`: decisions, steps that are skipped, continued and done again, the report, and its advice."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vidseg
from vidseg.cli.main import main
from vidseg.cli.train import prepare
from vidseg.engine.run_record import read_record
from vidseg.labels import open_dataset
from vidseg.learn import LearnOptions, learn
from vidseg.learn.advice import next_steps
from vidseg.learn.choices import Choices, choose_network, choose_splitting, choose_training, option_words
from vidseg.learn.facts import Facts, accuracy_range, blurred_videos
from vidseg.learn.inspection import task_of_labels
from vidseg.learn.step_state import Steps
from vidseg.tasks.recognition.probe import fit_classifier

TINY = {
    "network_option": ("width=0.125",),
    "epochs": 1,
    "size": 32,
    "frames": 4,
    "batch_size": 2,
    "workers": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_video) -> Path:
    """Two classes of five videos of mixed rates and sizes, and a broken file."""
    videos = tmp_path_factory.mktemp("learn") / "videos"
    for number in range(5):
        make_video(videos / f"jump/jump_{number}.mp4", frames=12, fps=(25, 15)[number % 2])
        make_video(videos / f"run/run_{number}.avi", frames=14, size=(64, 48), codec="mpeg4", fps=30)
    (videos / "run/broken.mp4").write_bytes(b"not a video")
    return videos


class KilledError(Exception):
    pass


def test_killed_after_each_step_it_continues_and_the_commands_repeat_it(folder, tmp_path, capsys):
    options = LearnOptions(out=tmp_path / "out", **TINY)
    steps, lines = ["convert", "split", "train", "test", "report"], []

    def killing(step):
        def say(line):
            lines.append(line)
            if line.startswith(f"{step}: "):
                raise KilledError

        return say

    for number, step in enumerate(steps):
        lines.clear()
        with pytest.raises(KilledError):
            learn(folder, options, say=killing(step))
        assert [line for line in lines if line.endswith("finished before")] == [
            f"{name}: finished before" for name in steps[:number]
        ]
    lines.clear()
    result = learn(folder, options, say=lines.append)
    assert sum(line.endswith("finished before") for line in lines) == len(steps)
    assert len(result.failed) == 1 and "broken.mp4" in result.failed[0]
    assert 0 <= result.scores["top1"] <= 1
    page = result.report.read_text()
    assert all(text in page for text in ("What to do next", "Decisions", "broken.mp4", "change with --network"))
    assert "http://" not in page and "<script" not in page and "<img src=" not in page.replace('<img src="data:', "")

    decisions = [line for line in lines if "change with" in line]
    named = set(re.findall(r"--[a-z-]+", " ".join(decisions)))
    assert main(["learn", "--help"]) == 0
    shown = capsys.readouterr().out
    assert named and all(option in shown for option in named)

    train = next(line for line in result.commands if line.startswith("vidseg train"))
    prepared = prepare(shlex.split(train)[2:])
    from vidseg.cli.parsing import parse

    command = parse("vidseg train", prepared.command, prepared.words, default=prepared.default)
    options_of_command = prepared.run.__self__.resolved(command)
    from vidseg.engine.options import flat_options

    stored = read_record(result.run)["options"]
    mine = json.loads(json.dumps(flat_options(options_of_command)))
    assert {name: mine[name] for name in stored} == stored
    for line in result.commands:
        words = shlex.split(line)
        assert words[0] == "vidseg" and main([words[1], "--help"]) == 0


def test_changed_videos_are_learned_again(folder, tmp_path, make_video):
    import shutil

    videos = shutil.copytree(folder, tmp_path / "videos")
    (videos / "run/broken.mp4").unlink()
    options = LearnOptions(out=tmp_path / "out", **TINY)
    first = learn(videos, options, say=lambda _: None)
    assert first.failed == []
    (videos / "run/run_4.avi").unlink()
    make_video(videos / "jump/jump_5.mp4", frames=9)
    lines: list[str] = []
    learn(videos, options, say=lines.append)
    assert not any(line.endswith("finished before") for line in lines)
    names = {Path(video.path).parent.name for video in open_dataset(tmp_path / "out/data")}
    assert "jump_5" in names and "run_4" not in names and len(names) == 10
    lines.clear()
    learn(videos, replace(options, epochs=2), say=lines.append)  # only what depends on the option is done again
    assert [line for line in lines if line.endswith("finished before")] == [
        "convert: finished before",
        "split: finished before",
    ]
    assert len(open_dataset(tmp_path / "out/data", "train")) + len(open_dataset(tmp_path / "out/data", "val")) < 10


@pytest.mark.slow
def test_killed_in_training_the_same_command_continues(folder, tmp_path):
    words = option_words({**TINY, "epochs": 6, "out": tmp_path / "out"})
    command = [sys.executable, "-m", "vidseg.cli.main", "learn", str(folder), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    checkpoint = tmp_path / "out/run/torchvision_r3d_18_last.pth"
    deadline = time.monotonic() + 300
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.is_file()
    assert not json.loads((tmp_path / "out/learn.json").read_text())["steps"]["train"]["done"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # the broken file
    assert "convert: finished before" in done.stdout and "broken.mp4" in done.stderr
    assert "next: vidseg test" in done.stderr and (tmp_path / "out/report.html").is_file()
    tables = sorted(path.name for path in (tmp_path / "out/run").glob("train_results_s*.csv"))
    assert len(tables) == 2, tables  # a resumed run has a further table


def test_labels_in_a_file_and_splits_of_their_own(folder, tmp_path):
    flat = tmp_path / "videos"
    flat.mkdir()
    rows = ["video,class,split"]
    for path in sorted(folder.glob("*/*_*")):
        (flat / path.name).symlink_to(path)
        split = "test" if path.stem.endswith("4") else "train"
        rows.append(f"{path.name},{path.parent.name},{split}")
    (flat / "labels.csv").write_text("\n".join(rows) + "\n")
    lines: list[str] = []
    result = learn(flat, LearnOptions(out=tmp_path / "out", **TINY), say=lines.append)
    assert f"labels: {flat / 'labels.csv'} (change with --labels)" in lines
    assert "splits: test, train (from the labels or folders; change with the labels or folders)" in lines
    data = open_dataset(tmp_path / "out/data", "test")
    assert data.classes == ["jump", "run"] and len(data) == 2 and result.failed == []


def test_published_weights_are_probed_then_fine_tuned(folder, tmp_path):
    torch.manual_seed(0)
    model = vidseg.create_model("torchvision_r3d_18", num_classes=7, width=0.125)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    lines: list[str] = []
    options = LearnOptions(out=tmp_path / "out", pretrained=str(tmp_path / "weights.pth"), **TINY)
    result = learn(folder, options, say=lines.append)
    assert any(line.startswith("network: torchvision_r3d_18") and "of the weights" in line for line in lines)
    assert any(line.startswith("probe: ") for line in lines)
    probed = vidseg.load_trained(tmp_path / "out/probe")
    own = probed.model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items() if not key.startswith("fc."))
    assert any(f"--pretrained {tmp_path / 'out/probe'}" in line for line in result.commands)
    assert any(line.startswith("vidseg probe") for line in result.commands)
    assert main(["probe", str(tmp_path / "out/data"), "--network", "torchvision_r3d_18", "--network-option",
                 "width=0.125", "--pretrained", str(tmp_path / "weights.pth"), "--out", str(tmp_path / "out/probe"),
                 "--size", "32", "--frames", "4", "--device", "cpu"]) == 2  # fmt: skip  # holds a run


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_labels_of_times_are_learned_through_features_of_their_clips(task, tmp_path, make_video):
    for number in range(6):
        make_video(tmp_path / f"videos/day/long_{number}.mp4", frames=40)
    labels = tmp_path / ("segments.csv" if task == "detection" else "labels")
    if task == "detection":
        rows = [
            f"long_{n},{start},{start + 0.6},{name}" for n in range(6) for start, name in ((0.1, "jump"), (0.9, "run"))
        ]
        labels.write_text("\n".join(["video,start,end,class", *rows]) + "\n")
        options = ("network_option=maps=32", "network_option=heads=2", "network_option=levels=3")
        options += ("network_option=window=5",)
    else:
        (labels / "groundTruth").mkdir(parents=True)
        (labels / "mapping.txt").write_text("0 jump\n1 run\n")
        for number in range(6):
            (labels / f"groundTruth/long_{number}.txt").write_text("jump\n" * 20 + "run\n" * 20)
        options = ("network_option=stages=1", "network_option=layers=3")
    lines: list[str] = []
    chosen = LearnOptions(out=tmp_path / "out", labels=labels, times_option=options, **TINY)
    result = learn(tmp_path / "videos", chosen, say=lines.append)
    assert result.task == task and result.failed == [] and result.report.is_file()
    assert set(result.scores) == ({"mAP"} if task == "detection" else {"acc", "edit"})
    parts = {part: set() for part in ("train", "val", "test")}
    for part, names in parts.items():
        for root in ("clips", "data"):
            videos = open_dataset(tmp_path / "out" / root, part)
            names |= {Path(video.path).parent.name[:6] for video in videos}
    assert sum(map(len, parts.values())) == 6  # clips have the split of their video
    assert open_dataset(tmp_path / "out/data").classes == ["jump", "run"]  # not the folder "day"
    lines.clear()
    learn(tmp_path / "videos", chosen, say=lines.append)
    assert sum(line.endswith("finished before") for line in lines) == 8


def test_a_probe_is_the_optimum_of_its_loss_and_separates():
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(20)
    features = torch.randn(60, 8) + 6 * torch.eye(3, 8)[labels]
    weight, bias, penalty = fit_classifier((features, labels), (features, labels), 3, penalties=(1e-3, 10.0))
    assert penalty == 1e-3
    assert ((features @ weight.T + bias).argmax(dim=1) == labels).all()
    std = features.std(dim=0)
    scaled, offset = (weight * std).double().requires_grad_(), (bias + weight @ features.mean(dim=0)).double()
    standard = ((features - features.mean(dim=0)) / std).double()
    loss = torch.nn.functional.cross_entropy(standard @ scaled.T + offset, labels) + penalty / 2 * scaled.square().sum()
    loss.backward()
    assert scaled.grad.abs().max() < 1e-4


@pytest.mark.parametrize(
    "name, text, task",
    [
        ("a.csv", "video,class\na,run\n", "recognition"),
        ("a.csv", "label,id,split\nrun,a,train\n", "recognition"),
        ("a.tsv", "video\tstart\tend\tclass\n", "detection"),
        ("a.csv", "label;youtube_id;time_start;time_end\n", "detection"),
        ("a.json", "{}", "detection"),
        ("train.txt", "run/a.mp4 0\n", "recognition"),
    ],
)
def test_the_form_of_labels_shows_the_task(tmp_path, name, text, task):
    (tmp_path / name).write_text(text)
    assert task_of_labels(tmp_path / name) == task
    assert task_of_labels(tmp_path) == "segmentation"


@pytest.mark.parametrize(
    "words, message",
    [
        (["absent"], "absent: no such folder of videos"),
        ([".", "--labels", "absent.csv"], "absent.csv: no such label file"),
        (["empty"], "empty: no videos found"),
        (["one"], "one class found, at least two are needed"),
        (["videos", "--pretrained", "absent.pth", "--network", "tsn_r50"], "weights file absent.pth does not exist"),
        (["videos", "--pretrained", "kinetics400"], "name the network with --network"),
        (["videos", "--network", "tsn_r51"], "did you mean tsn_r50"),
        (["videos", "--network", "mstcn"], "is a network for segmentation"),
        (["videos", "--no-fine-tune"], "needs --pretrained"),
        (["videos", "--fractions", "0.5", "0.5"], "give three"),
        (["videos", "--task", "detection"], "needs labels of times"),
        (["videos", "--labels", "notes.doc"], "not a label file"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/jump").mkdir(parents=True)
    (tmp_path / "one/jump/a.mp4").symlink_to(next(folder.glob("jump/*.mp4")))
    (tmp_path / "notes.doc").write_text("run a")
    assert main(["learn", *words, "--device", "cpu"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "learned/data").exists()


def test_an_unknown_train_option_is_refused_with_a_close_name(folder, tmp_path):
    options = LearnOptions(out=tmp_path / "out", train_option=("label_smothing=0.1",), **TINY)
    with pytest.raises(ValueError, match="did you mean 'label_smoothing'"):
        learn(folder, options, say=lambda _: None)


def test_steps_depend_on_inputs_files_and_overwrite(tmp_path):
    calls = []

    def work(continued):
        calls.append(continued)
        return {"value": 1}

    def run(inputs, **options):
        return Steps(tmp_path, **options).run("one", inputs, work, files=(tmp_path / "file",))["skipped"]

    (tmp_path / "file").touch()
    assert [run([1]), run([1]), run([2]), run([2], overwrite=True)] == [False, True, False, False]
    (tmp_path / "file").unlink()
    assert not run([2])
    (tmp_path / "file").touch()
    with pytest.raises(ZeroDivisionError):
        Steps(tmp_path).run("two", 0, lambda _: {"value": 1 / 0})
    assert Steps(tmp_path).run("two", 0, lambda continued: {"continued": continued})["continued"] is True
    assert calls == [False] * 4
    (tmp_path / "learn.json").write_text("[]")
    with pytest.raises(ValueError, match="not the state of `vidseg learn`"):
        Steps(tmp_path)


@pytest.mark.parametrize(
    "videos, network", [(40, "torchvision_r3d_18 width=0.25"), (900, "width=0.5"), (20000, "torchvision_r2plus1d_18")]
)
def test_the_network_follows_from_the_number_of_videos(videos, network):
    choices = Choices(lambda _: None)
    chosen = choose_network(LearnOptions(), videos, 5, [], choices)
    assert network in choices.lines[0]
    values = choose_training(
        LearnOptions(), chosen, videos=videos, lengths=[60] * 5, classes=["turn_left"], spec=None, choices=choices
    )
    assert values["interval"] == 3 and values["mirror"] is False and 20 <= values["epochs"] <= 100
    assert ("augment" in values) == (videos < 5000)


def test_groups_in_names_stay_together():
    choices = Choices(lambda _: None)
    names = [f"run/v_run_g{group:02d}_c{clip}" for group in (1, 2) for clip in (1, 2)]
    assert choose_splitting(LearnOptions(), names, [], choices)["group"] == r"_(g\d+)(?:_|$)"
    assert choose_splitting(LearnOptions(), [*names, "run/other"], [], choices)["group"] is None
    assert choose_splitting(LearnOptions(), names, ["split1/train", "split1/test"], choices) is None


GOOD = Facts(
    per_class={"run": 50, "jump": 50},
    train=0.99,
    test=0.96,
    tested=200,
    selected_on=False,
    confused=[],
    suspicious=[],
    short=0,
    clip=32,
    small=0,
    blurred=[],
    failed=[],
    best_epoch=(10, 30),
)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"failed": ["a.mp4: no video"]}, "Repair or remove 1 file that could not be read: a.mp4"),
        ({"suspicious": [("jpg/run/a", "run", "jump", 0.97)]}, "jpg/run/a (labeled run, predicted jump at 97%)"),
        ({"test": 0.5}, "near chance (50%)"),
        ({"per_class": {"run": 9, "jump": 50}}, "1 class has fewer than 30 training videos, fewest run 9"),
        ({"per_class": {"run": 9, "jump": 50}}, "Start from published weights"),
        ({"per_class": {"run": 40, "jump": 150}}, "Balance the classes: the largest has 150 training videos, run"),
        ({"test": 0.7}, "overfits: 99% of the training videos are right and 70% of the test videos"),
        ({"train": 0.6, "test": 0.55}, "underfits: only 60%"),
        ({"best_epoch": (30, 30), "test": 0.9}, "Train longer: the best epoch is 30 of 30"),
        ({"confused": [("run", "jump", 4)]}, "most confused pair is run predicted as jump (4 test videos)"),
        ({"short": 3}, "3 videos are shorter than the 32 frames"),
        ({"small": 1}, "1 video has frames smaller than the clips"),
        ({"blurred": ["jpg/run/b"]}, "far less sharp than the others (middle frame): jpg/run/b"),
        ({"tested": 20, "test": 0.95}, "between 76% and 99% only"),
        ({"selected_on": True}, "also selected the epoch, so it is optimistic"),
    ],
)
def test_advice_follows_from_facts(changes, said):
    advice = " ".join(next_steps(replace(GOOD, **changes), pretrained=False, out="runs/a"))
    assert said in advice
    assert said not in " ".join(next_steps(GOOD, pretrained=False, out="runs/a"))


def test_accuracy_range_is_wilsons():
    assert accuracy_range(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert accuracy_range(0.0, 0) == (0.0, 1.0)


def test_blurred_videos_are_found(tmp_path):
    from vidseg.frames import FrameWriter, encode_rgb

    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b", "c", "blurred"):
        frame = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8)
        if name == "blurred":
            frame = torch.full((64, 64, 3), 120, dtype=torch.uint8)
        with FrameWriter(tmp_path / f"jpg/run/{name}/frames.db") as writer:
            for _ in range(3):
                writer.add(encode_rgb(frame, 95)[0], width=64, timestamp=None, levels=[])
    from vidseg.labels import scan_catalog

    scan_catalog(tmp_path)
    assert blurred_videos(open_dataset(tmp_path)) == ["jpg/run/blurred"]
