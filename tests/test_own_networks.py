"""Networks of the user's own in the commands, and runs that a program starts with `Trainer`."""

import json
import os
import subprocess
import sys

import pytest
import torch

import vidseg
from vidseg.cli.main import main
from vidseg.convert import convert_videos
from vidseg.models import model_input_spec
from vidseg.models._registry import model_origin

SOURCE = """
from torch import nn

from vidseg.models import InputSpec, register_model


def dot_net(*, num_classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, width, 3, stride=2), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))


register_model("dot_net", dot_net, input_spec=InputSpec(frames=4, size=24))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("own")
    for index, label in enumerate(("run", "jump", "run", "jump"), start=1):
        make_video(folder / f"videos/{label}/clip_{index}.mp4", frames=12, size=(48, 64))
    assert convert_videos(folder / "videos", folder / "data", workers=1).ok
    return folder


def vidseg_command(root, *words, networks):
    """Exit status, stdout and stderr of a command in a process of its own."""
    code = "import sys; from vidseg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"VIDSEG_NETWORKS": networks}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=root, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_network_of_a_file_is_trained_and_tested(root):
    (root / "dot_net.py").write_text(SOURCE)
    words = "train data --network dot_net --network-option width=6 --epochs 1 --batch-size 2 --out dots".split()
    status, _, stderr = vidseg_command(root, *words, networks="dot_net.py")
    assert status == 0, stderr
    assert json.loads((root / "dots/options.json").read_text())["input"]["size"] == 24
    status, _, stderr = vidseg_command(root, "test", "dots", networks="dot_net.py")
    assert status == 0, stderr
    status, _, stderr = vidseg_command(root, "test", "dots", networks="")
    assert status == 2 and "no network is called 'dot_net'" in stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("absent.py", None, "VIDSEG_NETWORKS: absent.py does not exist"), ("notes.txt", "", "its name must end with .py")],
)
def test_a_file_of_networks_that_cannot_be_imported_is_named(root, name, text, said):
    if text is not None:
        (root / name).write_text(text)
    status, _, stderr = vidseg_command(root, "models", "r3d_18", networks=name)
    assert status == 2 and said in stderr


@pytest.fixture
def run(root, tmp_path):
    data = vidseg.open_dataset(root / "data")
    torch.manual_seed(0)
    model = vidseg.create_model("r3d_18", num_classes=data.num_classes, width=0.0625)
    loader = vidseg.ClipLoader(data, frames=4, interval=2, size=32, batch_size=2, mean=None, std=None)
    trainer = vidseg.Trainer(model, loader, task="recognition", validation=loader, seed=3)
    trainer.fit(epochs=1, out=tmp_path / "run")
    return trainer, tmp_path / "run"


def test_the_run_of_a_program_is_loaded_with_its_input_and_classes(root, run):
    trainer, out = run
    trained = vidseg.load_trained(out)
    assert (trained.network, trained.classes, trained.task) == ("r3d_18", ["jump", "run"], "recognition")
    spec = trained.input_spec
    assert (spec.frames, spec.interval, spec.size, spec.mean, spec.std) == (4, 2, 32, (0.0,) * 3, (1.0,) * 3)
    default = model_input_spec("r3d_18")
    assert default.resize is None or spec.resize == round(32 * default.resize / default.size)
    clips = torch.rand(2, 3, 4, 32, 32)
    trainer.model.eval()
    with torch.inference_mode():
        assert torch.equal(trained.model(clips), trainer.model(clips))
    assert trained.predict(root / "videos/run/clip_1.mp4")


def test_the_commands_take_the_run_of_a_program(run, capsys):
    _, out = run
    assert main(["test", str(out), "--json"]) == 0
    assert main(["info", str(out)]) == 0
    assert "r3d_18" in capsys.readouterr().out


def test_a_network_that_was_changed_has_no_origin():
    model = vidseg.create_model("r3d_18", num_classes=3, width=0.0625)
    origin = model_origin(model)
    assert origin is not None and (origin.name, origin.options) == ("r3d_18", {"width": 0.0625})
    model.fc = torch.nn.Linear(model.fc.in_features, 7)
    assert model_origin(model) is None
    assert model_origin(torch.nn.Linear(2, 2)) is None
