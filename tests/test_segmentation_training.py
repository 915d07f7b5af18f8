"""Training of segmentation networks on features: whole cross-validations, choice of the epoch, resuming, bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from segmentation_data import CLASSES, SIZE, segmentation_dataset
from torch import nn

from vidseg.cli.main import main, run_program
from vidseg.cli.train_segmentation import segmentation_command
from vidseg.models import create_model
from vidseg.models._segmentation import SegmentationOutput
from vidseg.tasks.segmentation.cross_validation import PlateauRate, cross_validate
from vidseg.tasks.segmentation.cross_validation import test_split as evaluate_split
from vidseg.tasks.segmentation.recipes import RECIPES, Recipe, SegmentationOptions, recipe_of
from vidseg.tasks.segmentation.task import SegmentationTask, VideoLabeler

SMALL = {
    "mstcn": ("layers=3", "maps=16", "stages=2"),
    "mstcn2": ("first_layers=3", "layers=3", "maps=16", "refinements=1"),
    "asformer": ("layers=3", "maps=16", "decoders=1"),
    "asrf": ("layers=3", "maps=16", "stages=2", "boundary_stages=2"),
    "c2f_tcn": (),
    "diffact": (
        "encoder_layers=3",
        "condition_layers=(1,2)",
        "decoder_layers=2",
        "encoder_maps=16",
        "sampling_steps=3",
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return segmentation_dataset(tmp_path_factory.mktemp("data") / "gtea")


@pytest.fixture
def own_root(root, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(root, tmp_path / "gtea")


def options(root, out, model="mstcn", **chosen):
    values = {"epochs": 2, "validate_every": 1, "pictures": False, "device": "cpu", "validation_share": 0.25} | chosen
    return SegmentationOptions(
        dataset=str(root), model=model, out=str(out), network_option=values.pop("network", SMALL[model]), **values
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cross_validation_learns_the_classes(root, tmp_path, capsys):
    words = [str(root), "--epochs", "7", "--lr", "0.02", "--validation-share", "0.25", "--out", str(tmp_path / "out")]
    command = segmentation_command("gtea")
    words += ["--device", "cpu", "--validate-every", "4"]
    assert run_program(command, [*words, "--network-option", *SMALL["mstcn"]]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert result["mean"]["acc"] > 90 and result["mean"]["f1"]["0.5"] > 80
    assert [row["split"] for row in result["splits"]] == ["split1", "split2"]
    for score in ("acc", "edit"):
        assert result["mean"][score] == pytest.approx(np.mean([row[score] for row in result["splits"]]))
    assert f"{result['mean']['acc']:8.2f}" in printed and "not learned from" in printed

    split = tmp_path / "out/split1"
    assert [row["Epoch"] for row in rows(split / "validation.csv")] == ["3", "6"]
    pictures = sorted(path.name for path in (split / "pictures").iterdir())
    assert pictures == ["epoch_0004.png", "epoch_0007.png", "test.png"]
    # The files of predictions give the same scores through another way.
    assert main(["score", str(split / "predictions"), "--mapping", str(root / "mapping.txt"), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    tested = json.loads((split / "test.json").read_text())
    assert scored["acc"] == tested["scores"]["acc"] and scored["f1"] == tested["scores"]["f1"]
    assert scored["edit"] == pytest.approx(tested["scores"]["edit"])
    assert sorted(video["name"] for video in tested["videos"]) == [f"S1_Tea_{number}" for number in range(4)]
    assert {name[:2] for name in tested["validation_videos"]} == {"S2"}


@pytest.mark.parametrize("model", sorted(SMALL))
def test_each_network_goes_through_its_recipe(root, tmp_path, model):
    name = "50salads" if model in ("asformer", "diffact", "c2f_tcn") else "gtea"
    table = cross_validate(name, options(root, tmp_path / model, model, splits=("split2",), epochs=1))
    tested = json.loads((tmp_path / model / "split2/test.json").read_text())
    assert table.splits[0]["acc"] == tested["scores"]["acc"]
    for video in tested["videos"]:
        frames = len((root / f"groundTruth/{video['name']}.txt").read_text().splitlines())
        assert sum(count for _, count in video["truth"]) == frames
        assert sum(count for _, count in video["prediction"]) == frames
    (row,) = rows(tmp_path / model / "split2/train_results_s0000.csv")
    assert np.isfinite(float(row["Loss"]))


def test_validation_and_test_videos_are_not_learned_from(root, tmp_path, monkeypatch):
    seen, step = set(), SegmentationTask.step

    def spy(self, model, batch, position):
        seen.update(batch.features[0, :, : batch.mask[0].sum()].sum(dim=1).tolist())
        return step(self, model, batch, position)

    monkeypatch.setattr(SegmentationTask, "step", spy)
    cross_validate("gtea", options(root, tmp_path / "run", splits=("split1",), epochs=1))
    held_out = json.loads((tmp_path / "run/split1/options.json").read_text())["validation_videos"]
    assert len(held_out) == 1

    def learned(video):
        return seen.issuperset(torch.from_numpy(np.load(root / f"features/{video}.npy")).sum(dim=1).tolist())

    assert {
        f"S{person}_Tea_{video}" for person in (1, 2) for video in range(4) if learned(f"S{person}_Tea_{video}")
    } == {f"S2_Tea_{video}" for video in range(4)} - set(held_out)


@pytest.mark.parametrize("select", ["last", "test", "validation"])
def test_the_tested_epoch_is_the_chosen_one_and_the_result_says_how(root, tmp_path, select):
    chosen = options(root, tmp_path, splits=("split1",), epochs=4, lr=0.02, select=select)
    table = cross_validate("gtea", chosen)
    split = tmp_path / "split1"
    tested = json.loads((split / "test.json").read_text())
    if select == "last":
        assert tested["epoch"] == 4 and not (split / "validation.csv").exists()
    else:
        quality = [sum(float(row[name]) for name in ("Acc", "Edit", "F1@50")) for row in rows(split / "validation.csv")]
        assert tested["epoch"] == 1 + int(np.argmax(quality))
    if select == "test":  # what the epoch was chosen by is what is reported
        assert tested["scores"]["acc"] == pytest.approx(
            float(rows(split / "validation.csv")[tested["epoch"] - 1]["Acc"])
        )
    assert ("TEST SPLIT ITSELF" in str(table)) == (select == "test")
    assert (tested["validation_videos"] == []) == (select == "last")


def test_a_run_that_goes_on_ends_like_one_that_never_stopped(root, tmp_path):
    chosen = {"model": "asformer", "splits": ("split1",), "lr": 0.01}
    cross_validate("gtea", options(root, tmp_path / "whole", epochs=4, **chosen))
    cross_validate("gtea", options(root, tmp_path / "parts", epochs=2, **chosen))
    (tmp_path / "parts/split1/test.json").unlink()
    cross_validate("gtea", options(root, tmp_path / "parts", epochs=4, resume=True, **chosen))
    for name in ("test.json", "validation.csv"):
        assert (tmp_path / "whole/split1" / name).read_text() == (tmp_path / "parts/split1" / name).read_text()
    states = [
        torch.load(tmp_path / run / "split1/asformer_last.pth", weights_only=True)["state_dict"]
        for run in ("whole", "parts")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_published_form_needs_no_converter(own_root, tmp_path, root):
    (own_root / "catalog.db").unlink()
    found = cross_validate("gtea", options(own_root, tmp_path / "a", splits=("split2",), epochs=1))
    assert found.splits == cross_validate("gtea", options(root, tmp_path / "b", splits=("split2",), epochs=1)).splits


def test_finished_splits_are_kept(root, tmp_path):
    cross_validate("gtea", options(root, tmp_path, splits=("split1",), epochs=1))
    before = (tmp_path / "split1/mstcn_last.pth").stat().st_mtime_ns
    table = cross_validate("gtea", options(root, tmp_path, epochs=1, resume=True))
    assert len(table.splits) == 2 and (tmp_path / "split1/mstcn_last.pth").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate("gtea", options(root, tmp_path, epochs=1))
    with pytest.raises(ValueError, match=r"lr=None, now it is 0\.5"):
        (tmp_path / "split1/test.json").unlink()
        cross_validate("gtea", options(root, tmp_path, epochs=1, lr=0.5, resume=True))


def test_plateau_rate_is_torchs(tmp_path):
    losses = [
        3.0,
        2.0,
        2.1,
        2.2,
        1.9999,
        2.3,
        2.4,
        2.5,
        2.5,
        2.5,
        2.5,
        1.0,
        1.1,
        1.2,
        1.3,
        1.4,
        1.5,
        1.6,
        1.7,
        1.8,
        0.9,
    ]
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    # A run that stopped after 6 epochs and went on from the fifth.
    for start, stop in ((0, 6), (5, len(losses))):
        lines = [
            f"{epoch},0.5,{losses[epoch] + (7 if stop == 6 and epoch == 5 else 0)}" for epoch in range(start, stop)
        ]
        (tmp_path / f"train_results_s{start:04d}.csv").write_text("\n".join(["Epoch,Acc,Loss", *lines]))
    rate = PlateauRate(tmp_path)
    for epoch, loss in enumerate(losses):
        assert rate.lr_factor(epoch, 0) == optimizer.param_groups[0]["lr"]
        torchs.step(loss)
    assert rate.lr_factor(len(losses), 0) == 0.5**4


class Columns(nn.Module):
    """Says the class that row 0 of the features holds."""

    def forward(self, features, mask=None):
        return SegmentationOutput(200 * nn.functional.one_hot(features[:, 0].long(), 30).transpose(1, 2)[None].float())


@pytest.mark.parametrize("length", [1, 3, 8, 9, 15, 16, 23])
def test_predictions_come_back_to_all_columns(length):
    columns = torch.arange(length)[None].float()
    plain = VideoLabeler(Recipe(epochs=1, rate=1, sample_rate=2))(Columns(), columns)[0]
    assert plain.tolist() == [column // 2 * 2 for column in range(length)]
    labels, probabilities = VideoLabeler(Recipe(epochs=1, rate=1, sample_rate=8, random_offset=True))(
        Columns(), columns
    )
    assert labels.shape == (length,) and probabilities.shape == (30, length)
    # Column n is the mean of what the eight offsets say at frames 8 n to 8 n + 7, and stands for the frames around.
    middle = (length // 8 - 1) * 8 + 7
    for frame in range(length):
        said = probabilities[:, frame].nonzero().flatten().tolist() if length >= 8 else []
        assert not said or (said[0] % 8 == 0 and said == list(range(said[0], said[0] + 8)) and said[-1] <= middle)
        assert not said or min(abs(frame - one) for one in said) <= max(4, frame - middle)
    assert torch.allclose(probabilities.sum(dim=0), torch.ones(length))


def test_recipes_build_their_networks():
    for name, recipes in RECIPES.items():
        for model, recipe in recipes.items():
            with torch.device("meta"):
                create_model(model, num_classes=5, **recipe.network)
            assert recipe_of(name, SegmentationOptions(dataset="", model=model)) == recipe
    chosen = recipe_of("gtea", SegmentationOptions(dataset="", batch_size=2, loss_option=("smoothing=0.3",), lr=1e-3))
    assert chosen.network == {"padding": "exact"} and chosen.loss == {"smoothing": 0.3} and chosen.rate == 1e-3


def replace_line(path, line, text):
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")


def break_mapping(root):
    replace_line(root / "mapping.txt", 0, "0 open")
    replace_line(root / "mapping.txt", 1, "1 take")


def misspell_label(root):
    (root / "catalog.db").unlink()
    replace_line(root / "groundTruth/S1_Tea_2.txt", 4, "taek")


def name_unknown_video(root):
    (root / "catalog.db").unlink()
    replace_line(root / "splits/train.split2.bundle", 1, "S9_Tea_9.txt")


def break_values(root):
    features = np.load(root / "features/S1_Tea_0.npy")
    features[3, 7] = np.nan
    np.save(root / "features/S1_Tea_0.npy", features)


def break_length(root):
    np.save(root / "features/S2_Tea_1.npy", np.load(root / "features/S2_Tea_1.npy")[:, :-3])


def break_width(root):
    np.save(root / "features/S2_Tea_1.npy", np.load(root / "features/S2_Tea_1.npy")[:-1])


def lose_features(root):
    (root / "features/S1_Tea_3.npy").unlink()


@pytest.mark.parametrize(
    "spoil, chosen, said",
    [
        (break_mapping, {}, r"mapping\.txt:1: class 'open' has number 0"),
        (misspell_label, {}, r"S1_Tea_2\.txt:5: class 'taek' is not in the mapping; did you mean 'take'"),
        (name_unknown_video, {}, r"train\.split2\.bundle:2: video 'S9_Tea_9' has no labels"),
        (break_values, {"splits": ("split1",)}, r"S1_Tea_0\.npy: nan in column 7, dimension 3"),  # of the test split
        (break_values, {"splits": ("split2",)}, r"S1_Tea_0\.npy: nan in column 7, dimension 3"),
        (break_length, {}, r"S2_Tea_1\.npy: \d+ columns, but the video has \d+ frame labels"),
        (break_width, {}, r"S2_Tea_1\.npy: 7 values per column"),
        (lose_features, {"splits": ("split1",)}, r"S1_Tea_3\.npy is missing"),
        (None, {"splits": ("split7",)}, "no split 'split7' .* split1, split2"),
        (None, {"network": ("depth=3",)}, "mstcn has no option 'depth'"),
        (None, {"network": ("layers",)}, "'layers' is not of the form NAME=VALUE"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(own_root, tmp_path, spoil, chosen, said):
    if spoil is not None:
        spoil(own_root)
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=said):
        cross_validate("gtea", options(own_root, tmp_path / "run", epochs=1, select="last", **chosen))
    assert not list((tmp_path / "run").glob("*/*.pth")) and not list((tmp_path / "run").glob("*/test.json"))


def test_wrong_names_get_a_hint():
    with pytest.raises(ValueError, match="did you mean 'asformer'"):
        recipe_of("gtea", SegmentationOptions(dataset="", model="asfromer"))
    with pytest.raises(ValueError, match="gtea, 50salads, breakfast"):
        recipe_of("salads", SegmentationOptions(dataset=""))
    for wrong in ({"validation_share": 0.0}, {"resume": True, "overwrite": True}, {"labels_per_column": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SegmentationOptions(dataset="", **wrong)


def test_a_run_is_tested_again_elsewhere_but_not_on_other_classes(own_root, tmp_path):
    cross_validate("gtea", options(own_root, tmp_path / "run", splits=("split1",), epochs=1))
    run = tmp_path / "run/split1"
    before = json.loads((run / "test.json").read_text())
    (tmp_path / "elsewhere").mkdir()
    moved = own_root.rename(tmp_path / "elsewhere/gtea")
    assert evaluate_split(run, dataset=moved, device="cpu") == before
    break_mapping(moved)
    with pytest.raises(ValueError, match=r"mapping\.txt:1: class 'open' has number 0, .*keep the order"):
        evaluate_split(run, dataset=moved, device="cpu")
    with pytest.raises(FileNotFoundError, match="its splits are split1"):
        evaluate_split(tmp_path / "run", dataset=moved)
    other = segmentation_dataset(tmp_path / "other")
    for path in (other / "features").iterdir():
        np.save(path, np.zeros((SIZE + 1, np.load(path).shape[1]), np.float32))
    with pytest.raises(ValueError, match=f"features of {SIZE + 1} values a column, but the network takes {SIZE}"):
        evaluate_split(run, dataset=other, device="cpu")
    assert len(CLASSES) == 4
