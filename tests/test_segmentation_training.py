"""Training of segmentation networks on features: whole cross-validations, choice of the epoch, resuming, bad input."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from segmentation_data import CLASSES, SIZE, segmentation_dataset
from torch import nn

import vidseg
from vidseg.cli.main import main
from vidseg.engine import Schedule, ScheduleOptions
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.option_words import named_values
from vidseg.engine.options import flat_options
from vidseg.models import create_model
from vidseg.models._segmentation import SegmentationOutput
from vidseg.tasks import load_trained
from vidseg.tasks.segmentation.cross_validation import build_network, cross_validate
from vidseg.tasks.segmentation.options import LabelingOptions
from vidseg.tasks.segmentation.recipes import RECIPES, recipe_options
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


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def options(root, out, network="mstcn", *, recipe="gtea", **chosen):
    values = {"epochs": 2, "test_every": 1, "pictures": False, "device": "cpu", "validation_share": 0.25}
    values |= {"network_option": SMALL[network], "dataset": str(root), "out": str(out)} | chosen
    return recipe_options(recipe, network, **values)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cross_validation_learns_the_classes(root, tmp_path, capsys):
    chosen = options(root, tmp_path / "out", epochs=7, lr=0.02, test_every=4, pictures=True)
    printed = str(cross_validate(chosen))
    result = json.loads((tmp_path / "out/results.json").read_text())
    assert result["mean"]["acc"] > 90 and result["mean"]["f1"]["0.5"] > 80
    assert [row["split"] for row in result["splits"]] == ["split1", "split2"]
    for score in ("acc", "edit"):
        assert result["mean"][score] == pytest.approx(np.mean([row[score] for row in result["splits"]]))
    assert f"{result['mean']['acc']:8.2f}" in printed and "were not trained on" in printed

    split = tmp_path / "out/split1"
    assert [row["Epoch"] for row in rows(split / "validation.csv")] == ["4", "7"]
    assert [row["Epoch"] for row in rows(split / "train_results_s0001.csv")] == [str(epoch) for epoch in range(1, 8)]
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
    table = cross_validate(options(root, tmp_path / model, model, recipe=name, splits=("split2",), epochs=1))
    tested = json.loads((tmp_path / model / "split2/test.json").read_text())
    assert table.splits[0]["acc"] == tested["scores"]["acc"]
    for video in tested["videos"]:
        frames = len((root / f"groundTruth/{video['name']}.txt").read_text().splitlines())
        assert sum(count for _, count in video["truth"]) == frames
        assert sum(count for _, count in video["prediction"]) == frames
    (row,) = rows(tmp_path / model / "split2/train_results_s0001.csv")
    assert np.isfinite(float(row["Loss"]))


def test_validation_and_test_videos_are_not_learned_from(root, tmp_path, monkeypatch):
    seen, train_batch = set(), SegmentationTask.train_batch

    def spy(self, model, batch, position, backward):
        seen.update(batch.features[0, :, : batch.mask[0].sum()].sum(dim=1).tolist())
        return train_batch(self, model, batch, position, backward)

    monkeypatch.setattr(SegmentationTask, "train_batch", spy)
    cross_validate(options(root, tmp_path / "run", splits=("split1",), epochs=1))
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
    table = cross_validate(chosen)
    split = tmp_path / "split1"
    tested = json.loads((split / "test.json").read_text())
    if select == "last":
        assert tested["epoch"] == 4 and not (split / "validation.csv").exists()
    else:
        quality = [sum(float(row[name]) for name in ("Acc", "Edit", "F1@50")) for row in rows(split / "validation.csv")]
        assert tested["epoch"] == 1 + int(np.argmax(quality))
    if select == "test":  # the validation was on the test split
        assert tested["scores"]["acc"] == pytest.approx(
            float(rows(split / "validation.csv")[tested["epoch"] - 1]["Acc"])
        )
    assert ("TEST SPLIT ITSELF" in str(table)) == (select == "test")
    assert (tested["validation_videos"] == []) == (select == "last")


def assert_equal_states(first, second):
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_longer_run_resumes_bit_by_bit(root, tmp_path):
    """With ASFormer's plateau schedule, which depends on the losses of the epochs before."""
    chosen = {"network": "asformer", "splits": ("split1",), "lr": 0.1, "patience": 0}
    cross_validate(options(root, tmp_path / "whole", epochs=4, **chosen))
    cross_validate(options(root, tmp_path / "parts", epochs=2, **chosen))
    cross_validate(options(root, tmp_path / "parts", epochs=4, resume=True, **chosen))
    losses = [float(row["Loss"]) for row in rows(tmp_path / "whole/split1/train_results_s0001.csv")]
    assert losses[1] > losses[0] and losses[2] > losses[0]  # each halves the rate
    for name in ("test.json", "validation.csv"):
        assert (tmp_path / "whole/split1" / name).read_text() == (tmp_path / "parts/split1" / name).read_text()
    assert_equal_states(*(tmp_path / run / "split1/asformer_last.pth" for run in ("whole", "parts")))
    record = json.loads((tmp_path / "parts/split1/options.json").read_text())
    assert record["changes"] == [{"epochs": [2, 4]}] and record["options"]["epochs"] == 4
    assert "resumed with other options: epochs: 2 -> 4" in (tmp_path / "parts/split1/train.log").read_text()


def test_the_published_form_needs_no_converter(own_root, tmp_path, root):
    (own_root / "catalog.db").unlink()
    found = cross_validate(options(own_root, tmp_path / "a", splits=("split2",), epochs=1))
    assert found.splits == cross_validate(options(root, tmp_path / "b", splits=("split2",), epochs=1)).splits


def test_results_of_other_splits_stay(root, tmp_path):
    cross_validate(options(root, tmp_path, splits=("split1",), epochs=1))
    table = cross_validate(options(root, tmp_path, splits=("split2",), epochs=1))
    result = json.loads((tmp_path / "results.json").read_text())
    assert [row["split"] for row in table.splits] == [row["split"] for row in result["splits"]] == ["split1", "split2"]
    assert table.mean["acc"] == pytest.approx(np.mean([row["acc"] for row in table.splits]))


def test_finished_splits_are_kept(root, tmp_path):
    cross_validate(options(root, tmp_path, splits=("split1",), epochs=1))
    before = (tmp_path / "split1/mstcn_last.pth").stat().st_mtime_ns
    table = cross_validate(options(root, tmp_path, epochs=1, resume=True))
    assert len(table.splits) == 2 and (tmp_path / "split1/mstcn_last.pth").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="--resume"):
        cross_validate(options(root, tmp_path, epochs=1))


def test_a_tested_split_whose_longer_training_was_killed_is_trained_further(root, tmp_path, monkeypatch):
    longer = {"splits": ("split1",), "epochs": 3, "resume": True}
    cross_validate(options(root, tmp_path, splits=("split1",), epochs=1))
    monkeypatch.setattr(SegmentationTask, "train_batch", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cross_validate(options(root, tmp_path, **longer))
    assert json.loads((tmp_path / "split1/options.json").read_text())["options"]["epochs"] == 3
    monkeypatch.undo()
    load_trained(tmp_path / "split1").test()  # of the first epoch: it must not count as the test after the third
    cross_validate(options(root, tmp_path, **longer))
    assert read_checkpoint(tmp_path / "split1/mstcn_last.pth")["epoch"] == 3


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_run_is_not_resumed(own_root, tmp_path):
    """Refused before anything is written, finished or not."""
    run = tmp_path / "run"
    cross_validate(options(own_root, run, splits=("split1",)))
    for finished in (True, False):
        if not finished:
            (run / "split1/test.json").unlink()
        before = contents(run)
        for change, said in (
            ({"network": "asformer"}, 'network="mstcn", now it is "asformer"'),
            ({"network_option": ("layers=4", "maps=16", "stages=2")}, 'network_options={"layers": 3'),
            ({"seed": 5, "validation_share": 0.5}, "validation_videos="),
        ):
            with pytest.raises(ValueError, match=re.escape(said)):
                cross_validate(options(own_root, run, **{"splits": ("split1",), "resume": True, **change}))
            assert contents(run) == before
    rename_class(own_root)
    with pytest.raises(ValueError, match=r'classes=.*"open".*now it is .*"unlock"'):
        cross_validate(options(own_root, run, splits=("split1",), resume=True))
    assert contents(run) == before


def test_overwriting_removes_the_earlier_run(root, tmp_path):
    cross_validate(options(root, tmp_path, splits=("split1",), epochs=2, pictures=True))
    cross_validate(options(root, tmp_path, "asformer", splits=("split1",), epochs=1, overwrite=True))
    names = {path.name for path in (tmp_path / "split1").iterdir()}
    assert not [name for name in names if name.startswith("mstcn")]
    assert "pictures" not in names
    assert [row["Epoch"] for row in rows(tmp_path / "split1/validation.csv")] == ["1"]


LOSSES = (3.0, 2.0, 2.1, 2.2, 1.9999, 2.3, 2.4, *[2.5] * 4, 1.0, *[1.1 + 0.1 * number for number in range(8)], 0.9)


@pytest.mark.parametrize("start", [0, 6])
def test_the_plateau_schedule_is_torchs(start):
    """Also of a run that resumes with the losses of the epochs before."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    kind = ScheduleOptions(lr=1.0, schedule="plateau", lr_factor=(0.5,), patience=3)
    schedule = Schedule(kind, len(LOSSES), losses=list(LOSSES[:start]))
    for epoch, loss in enumerate(LOSSES):
        if epoch >= start:
            assert schedule.rate(epoch) == optimizer.param_groups[0]["lr"]
            schedule.losses.append(loss)
        torchs.step(loss)
    assert schedule.rate(len(LOSSES)) == optimizer.param_groups[0]["lr"] == 0.5**4


class Columns(nn.Module):
    """Says the class that row 0 of the features holds."""

    def forward(self, features, mask=None):
        return SegmentationOutput(200 * nn.functional.one_hot(features[:, 0].long(), 30).transpose(1, 2)[None].float())


@pytest.mark.parametrize("length", [1, 3, 8, 9, 15, 16, 23])
def test_predictions_come_back_to_all_columns(length):
    columns = torch.arange(length)[None].float()
    plain = VideoLabeler(LabelingOptions(sample_rate=2))(Columns(), columns)[0]
    assert plain.tolist() == [column // 2 * 2 for column in range(length)]
    labels, probabilities = VideoLabeler(LabelingOptions(sample_rate=8, random_offset=True))(Columns(), columns)
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
        for network, recipe in recipes.items():
            found = recipe_options(name, network)
            with torch.device("meta"):
                create_model(network, num_classes=5, **found.network.chosen_options())
            flat = flat_options(found)
            assert {key: flat[key] for key in recipe.options} == dict(recipe.options)
    changed = recipe_options(
        "50salads", "diffact", lr=1e-3, loss_option=("smoothing=0.3",), network_option=("scale=2",)
    )
    assert changed.schedule.lr == 1e-3 and changed.network.chosen_options()["decoder_kernel"] == 7
    assert changed.network.chosen_options()["scale"] == 2
    assert changed.labeling.loss_options() == {"soft_label": None, "boundary_smooth": 20, "smoothing": 0.3}


def test_batches_of_several_videos_have_exact_padding():
    kept = {}
    for size in (1, 2):
        chosen = recipe_options("gtea", batch_size=size, network_option=SMALL["mstcn"])
        model = build_network(chosen, 3, SIZE).eval()
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        features, mask = torch.randn(1, SIZE, 20), torch.arange(20)[None] < 12
        whole = model(features[..., :12], mask[:, :12]).logits
        kept[size] = torch.allclose(model(features * mask[:, None], mask).logits[..., :12], whole, atol=1e-4)
    assert kept == {1: False, 2: True}


def replace_line(path, line, text):
    lines = path.read_text().splitlines()
    lines[line] = text
    path.write_text("\n".join(lines) + "\n")


def break_mapping(root):
    replace_line(root / "mapping.txt", 0, "0 open")
    replace_line(root / "mapping.txt", 1, "1 take")


def rename_class(root):
    (root / "catalog.db").unlink()
    for path in [root / "mapping.txt", *(root / "groundTruth").iterdir()]:
        path.write_text(path.read_text().replace("open", "unlock"))


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
        (break_width, {}, r"S2_Tea_1\.npy: 7 values per column, but"),
        (lose_features, {"splits": ("split1",)}, r"S1_Tea_3\.npy is missing"),
        (None, {"splits": ("split7",)}, "no split 'split7' .* split1, split2"),
        (None, {"network_option": ("depth=3",)}, "mstcn has no option 'depth'"),
        (None, {"network_option": ("layers",)}, "'layers' is not of the form NAME=VALUE"),
        (None, {"loss_option": ("weight=3",)}, "loss 'mstcn' has no option 'weight'"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(own_root, tmp_path, spoil, chosen, said):
    if spoil is not None:
        spoil(own_root)
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=said):
        cross_validate(options(own_root, tmp_path / "run", epochs=1, select="last", **chosen))
    assert not list((tmp_path / "run").glob("*/*.pth")) and not list((tmp_path / "run").glob("*/test.json"))


def test_wrong_names_get_a_hint():
    with pytest.raises(ValueError, match="did you mean 'asformer'"):
        recipe_options("gtea", "asfromer")
    with pytest.raises(ValueError, match="gtea, 50salads, breakfast"):
        recipe_options("salads")
    with pytest.raises(ValueError, match="no option 'epoch'; did you mean 'epochs'"):
        recipe_options("gtea", epoch=3)
    for wrong in ({"validation_share": 0.0}, {"resume": True, "overwrite": True}, {"labels_per_column": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            recipe_options("gtea", **wrong)
    assert named_values(["scale=1.0", "soft-label=None", "norm=dropout"]) == {
        "scale": 1.0,
        "soft_label": None,
        "norm": "dropout",
    }


# Trained networks


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    cross_validate(options(root, out, splits=("split1",), epochs=3, lr=0.02, save_frequency=1))
    return out / "split1"


def test_a_trained_network_labels_features(root, run):
    trained = vidseg.load_trained(run)
    tested = json.loads((run / "test.json").read_text())
    assert (trained.task, trained.network, trained.classes) == ("segmentation", "mstcn", list(CLASSES))
    assert trained.source.epoch == tested["epoch"] and trained.facts()["network options"].startswith("layers=3")
    path = root / "features/S1_Tea_2.npy"
    found = trained.predict(path)
    assert [CLASSES[label] for label in found.labels] == (run / "predictions/S1_Tea_2-pred.txt").read_text().split()
    assert found.probabilities.shape == (4, len(found.labels))
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, rtol=1e-5)
    values = np.load(path)
    assert np.array_equal(trained.predict(values.T, layout="LD").labels, found.labels)
    segments = found.segments()
    assert segments[0][1] == 0 and segments[-1][2] == len(found.labels)
    assert np.concatenate(
        [np.repeat(CLASSES.index(name), stop - start) for name, start, stop in segments]
    ).tolist() == (found.labels.tolist())
    with pytest.raises(FileNotFoundError, match=r"nothing\.npy: no such file of features"):
        trained.predict("nothing.npy")
    with pytest.raises(ValueError, match=r"shape \(7, 30\), the network takes \(8, columns\)"):
        trained.predict(np.zeros((7, 30), np.float32))


def test_weights_from_a_run_a_checkpoint_and_a_file(root, run, tmp_path):
    path, last = root / "features/S1_Tea_1.npy", run / "mstcn_last.pth"
    expected = vidseg.load_trained(run, checkpoint=last).predict(path).probabilities
    assert np.array_equal(vidseg.load_trained(last).predict(path).probabilities, expected)
    bare = tmp_path / "bare.pth"
    torch.save(torch.load(last, weights_only=True)["state_dict"], bare)
    with pytest.raises(ValueError, match=r"bare\.pth: does not hold the name of its network"):
        vidseg.load_trained(bare)
    given = named_values(SMALL["mstcn"])
    with pytest.raises(ValueError, match="does not hold the width of its features"):
        vidseg.load_trained(bare, network="mstcn", network_options=given, classes=CLASSES)
    chosen = given | {"in_features": SIZE}
    trained = vidseg.load_trained(bare, network="mstcn", network_options=chosen, classes=CLASSES)
    assert np.array_equal(trained.predict(path).probabilities, expected)
    with pytest.raises(ValueError, match=r"bare\.pth: .*run"):
        trained.test(dataset=root)
    with pytest.raises(ValueError, match="holds weights of mstcn, not of asformer"):
        vidseg.load_trained(last, network="asformer")


def test_a_test_of_another_checkpoint_or_split_has_its_own_files(root, run):
    before = contents(run)
    tested = vidseg.load_trained(run, checkpoint=run / "mstcn_ep-0001.pth").test(picture=False)
    assert (tested["epoch"], tested["checkpoint"]) == (1, "mstcn_ep-0001.pth")
    assert json.loads((run / "test_mstcn_ep-0001.json").read_text()) == tested
    tested = vidseg.load_trained(run).test(split="split2/test", picture=False)
    assert tested["split"] == "split2/test" and (run / "test_split2-test.json").is_file()
    assert sorted(path.name for path in (run / "predictions_split2-test").glob("*-pred.txt"))[0] == "S2_Tea_0-pred.txt"
    after = contents(run)
    assert {path: after[path] for path in before} == before
    report = vidseg.load_trained(run / "mstcn_best.pth").test(picture=False)  # of no run: nothing is written
    assert report["scores"] == json.loads((run / "test.json").read_text())["scores"] and contents(run) == after


def test_a_run_is_tested_elsewhere_but_not_on_other_classes(own_root, tmp_path):
    cross_validate(options(own_root, tmp_path / "run", splits=("split1",), epochs=1))
    run = tmp_path / "run/split1"
    before = json.loads((run / "test.json").read_text())
    (tmp_path / "elsewhere").mkdir()
    moved = own_root.rename(tmp_path / "elsewhere/gtea")
    assert vidseg.load_trained(run).test(dataset=moved) == before
    break_mapping(moved)
    with pytest.raises(ValueError, match=r"mapping\.txt:1: class 'open' has number 0, .*use the mapping"):
        vidseg.load_trained(run).test(dataset=moved)
    with pytest.raises(FileNotFoundError, match=r"the runs in it are .*split1"):
        vidseg.load_trained(tmp_path / "run")
    other = segmentation_dataset(tmp_path / "other")
    for path in (other / "features").iterdir():
        np.save(path, np.zeros((SIZE + 1, np.load(path).shape[1]), np.float32))
    with pytest.raises(ValueError, match=f"features of {SIZE + 1} values a column, but the network takes {SIZE}"):
        vidseg.load_trained(run).test(dataset=other)
