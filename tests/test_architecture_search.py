"""Search spaces of networks, shared weights of a super-network, evolution, and one-shot search from data to runs."""

import json
import math
import re
from dataclasses import replace
from itertools import product

import pytest
import torch
from segmentation_data import segmentation_dataset
from shapes import shapes_dataset
from torch import nn

import vidseg
from vidseg.cli.main import main
from vidseg.cli.train import searched_program
from vidseg.clips.draws import uniform
from vidseg.engine.option_words import merged_values, named_values
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.task import BatchResult, Position, Task
from vidseg.models import create_model, list_models, model_options, model_search_space
from vidseg.search import (
    Parameter,
    SearchSpace,
    architecture_parameters,
    bound_space,
    one_shot,
    remove_one_shot,
    search_one_shot,
    write_search_report,
)
from vidseg.search.architecture import PREFIX, ArchitectureSpace
from vidseg.search.elastic import SuperNetwork
from vidseg.search.evolution import dominated_area, evolve, pareto_front
from vidseg.search.scores import make_objective
from vidseg.search.shared_evaluation import NetworkScorer
from vidseg.search.shared_task import SharedTask
from vidseg.tasks.recognition.recipes import recipe_options as recognition_options
from vidseg.tasks.segmentation.recipes import recipe_options as segmentation_options

NARROW = {f"width.{stage}": Parameter(choices=(0.0625, 0.125)) for stage in range(4)}
CLIPS = {"num_classes": 4}, (2, 3, 8, 40, 40)
FEATURES = {"num_classes": 4, "in_features": 6}, (2, 6, 40)
SHARED = {
    "mstcn": FEATURES,
    "mstcn2": FEATURES,
    "asrf": FEATURES,
    "asformer": FEATURES,
    "ltcontext": FEATURES,
    "r2plus1d_18": CLIPS,
    "r3d_50": CLIPS,
    "torchvision_r2plus1d_18": CLIPS,
}


def declaring():
    found = []
    for name in list_models():
        try:
            model_search_space(name)
        except ValueError:
            continue
        found.append(name)
    return found


def space_of(network, **changes):
    own = {name.removeprefix(PREFIX): one for name, one in architecture_parameters(network).items()}
    return ArchitectureSpace(network, own | (NARROW if "width.0" in own else {}) | changes, {})


def drawn(space, number):
    row = uniform(5, 0, [number], purpose="test", count=len(space.sizes))[0]
    return tuple(int(draw * size) for draw, size in zip(row, space.sizes, strict=True))


def output(model, x):
    found = model(x)
    return getattr(found, "logits", found)


def supernet_of(network, space=None):
    common, shape = SHARED[network]
    space = space or space_of(network)
    options = {**common, **space.options(space.largest())}
    torch.manual_seed(0)
    model = create_model(network, **options)
    classes = options.pop("num_classes")
    return SuperNetwork(model, network, options, num_classes=classes), space, torch.randn(shape)


# Declared spaces


def test_declared_parameters_are_options_of_their_network():
    names = declaring()
    assert {"mstcn", "r2plus1d_18", "srtg_r3d_18", "mtnet_xs", "ltcontext", "actionformer"} <= set(names)
    for name in names:
        for parameter in architecture_parameters(name):
            assert parameter.removeprefix(PREFIX).partition(".")[0] in model_options(name), (name, parameter)


@pytest.mark.parametrize(
    "network", [*SHARED, "actionformer", "tridet", "srtg_r2plus1d_18", "mtnet_xs", "mtnet_xs_g8", "ig65m_r2plus1d_34"]
)
def test_networks_of_a_declared_space_exist(network):
    space = space_of(network)
    published = {name: value for name, value in model_options(network).items() if value is not None}
    for genome in (space.smallest(), drawn(space, 0), space.largest()):
        with torch.device("meta"):
            create_model(network, num_classes=4, **space.options(genome))
    searched = {name.partition(".")[0] for name in space.parameters}
    assert searched - {"blocks", "dilations"} <= set(published)


def test_a_network_without_a_space_is_named():
    with pytest.raises(ValueError, match="x3d_xs declares no search space; networks for recognition that do begin"):
        architecture_parameters("x3d_xs")


@pytest.mark.parametrize(
    "network, options, error",
    [
        ("r2plus1d_18", {"blocks": (1, 1, 1)}, r"blocks=\(1, 1, 1\): give four numbers of at least 1"),
        ("r2plus1d_18", {"blocks": (1, 0, 1, 1)}, "four numbers of at least 1"),
        ("srtg_r3d_18", {"width": (1.0, 0.5)}, "give one number, or one for each of the 4 stages"),
        ("torchvision_r3d_18", {"width": (1.0, 0.5, -1.0, 1.0)}, r"width=-1\.0 must be positive"),
        ("mtnet_xs", {"width": 0.0}, r"width=0\.0 must be positive"),
        ("mtnet_xs", {"short_share": 1.0}, r"short_share=1\.0: of 64 channels both streams must have"),
        ("mtnet_xs_g8", {"short_share": 0.5}, r"with 8 sub-streams it must be 0\.875"),
        ("mstcn", {"layers": 2, "dilations": (1, 2, 4)}, r"has 3 numbers, but a stage has layers=2"),
        ("mstcn2", {"dilations": (1, 0)}, "must be integers of at least 1"),
    ],
)
def test_sizes_that_a_network_cannot_have_are_refused(network, options, error):
    with pytest.raises(ValueError, match=error):
        create_model(network, num_classes=4, **options)


def test_options_of_stages_change_the_stages_that_they_name():
    model = create_model("r2plus1d_18", num_classes=4, blocks=(1, 2, 1, 3), width=(0.125, 0.25, 0.125, 0.0625))
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [len(stage) for stage in stages] == [1, 2, 1, 3]
    assert [stage[0].conv2[-1].num_features for stage in stages] == [8, 32, 32, 32] and model.fc.in_features == 32
    streams = create_model("mtnet_xs", num_classes=4, width=0.25, short_share=0.5, lateral=False, blocks=(1, 1, 1, 1))
    convolution = streams.layer1[0].conv1_1
    assert convolution.conv_short.out_channels == convolution.conv_long.out_channels == 8
    assert convolution.conv_short2long is None
    assert streams(torch.randn(2, 3, 8, 40, 40)).shape == (2, 4)
    repeated = create_model("mstcn", num_classes=4, in_features=6, stages=2, layers=5, dilations=(1, 4))
    for stage in (repeated.stage1, *repeated.stages):
        assert [layer.conv_dilated.dilation for layer in stage.layers] == [(1,), (4,), (1,), (4,), (1,)]


def test_words_for_numbers_of_an_option_are_joined():
    assert named_values(["blocks.1=2", "a=x", "blocks.0=1"]) == {"a": "x", "blocks": (1, 2)}
    for words in (["blocks.1=2"], ["blocks.0=1", "blocks=(1, 2)"]):
        with pytest.raises(ValueError, match=r"give blocks\.0, blocks\.1 and so on without a gap"):
            named_values(words)
    assert merged_values(["width=0.25", "a=1"], ["width.0=1", "width.1=2"]) == ("a=1", "width.0=1", "width.1=2")
    assert merged_values(["width.0=1", "width.1=2"], ["width=3"]) == ("width=3",)
    assert merged_values(["width.0=1", "width.1=2"], ["width.1=5"]) == ("width.0=1", "width.1=5")


def test_a_search_of_trials_takes_the_declared_space():
    content = {
        "program": "segmentation",
        "architecture": "mstcn",
        "options": {"network-option.stages": 2},
        "space": {"network-option.maps": [8, 16], "lr": [0.1, 0.2]},
    }
    program = searched_program("segmentation")
    space = bound_space(content, "space.yaml", program, declared=architecture_parameters("mstcn"))
    assert set(space.parameters) == {f"{PREFIX}{name}" for name in ("maps", "layers", "dilations")} | {"lr"}
    assert space.parameters[f"{PREFIX}maps"].choices == (8, 16) and space.options["network"] == "mstcn"
    # The recipe has width=0.25, which the widths of the stages replace.
    program = searched_program("synth")
    declared = architecture_parameters("srtg_r3d_18")
    space = bound_space({"architecture": "srtg_r3d_18"}, "space.yaml", program, declared=declared)
    values = {name: one.values()[0] for name, one in space.parameters.items()}
    words = program.options({**space.options, **values})["network_option"]
    chosen = named_values(words)
    assert chosen["width"] == (0.25,) * 4 and chosen["blocks"] == (1, 1, 1, 1) and chosen["placement"] == "start"
    with pytest.raises(ValueError, match="has no option 'depth'"):
        bound_space({"architecture": "mstcn", "space": {"network-option.depth.0": [1, 2]}}, "space.yaml", program)


# Shared weights


@pytest.mark.parametrize("network", SHARED)
def test_a_smaller_network_equals_the_super_network_in_its_configuration(network):
    supernet, space, x = supernet_of(network)
    assert list(supernet.state_dict()) == list(supernet._largest.state_dict())
    supernet.train()
    output(supernet, x)  # statistics of norms that differ from those at the start
    for number, genome in enumerate((space.smallest(), drawn(space, 1), drawn(space, 4))):
        options = space.options(genome)
        assert supernet.contains(options)
        supernet.use(options)
        small = supernet.extract(options)
        supernet.train(), small.train()
        torch.manual_seed(number)
        mine = output(supernet, x)
        torch.manual_seed(number)
        assert torch.equal(mine, output(small, x))
        # The statistics of norms moved alike, in the part of the largest network that the smaller one has.
        moved = supernet.values(options)
        assert all(torch.equal(moved[name], value) for name, value in small.state_dict().items())
        supernet.eval(), small.eval()
        with torch.no_grad():
            assert torch.equal(output(supernet, x), output(small, x))
    supernet.use(None)
    with torch.no_grad():
        assert torch.equal(output(supernet, x), output(supernet._largest, x))


def test_gradients_of_a_smaller_network_stay_in_its_part():
    supernet, _, x = supernet_of("mstcn", space_of("mstcn", maps=Parameter(choices=(8, 16))))
    options = {"stages": 1, "layers": 4, "dilations": (1, 4, 16, 64), "maps": 8}
    small = supernet.extract(options).eval()
    supernet.eval().use(options)
    output(supernet, x).square().mean().backward()
    output(small, x).square().mean().backward()
    gradients = {name: value.grad for name, value in supernet.named_parameters()}
    own = dict(small.named_parameters())
    for layer, place in enumerate((0, 2, 4, 6)):  # dilations 1, 4, 16, 64 of the largest network
        whole = gradients[f"stage1.layers.{place}.conv_dilated.weight"]
        assert torch.equal(whole[:8, :8], own[f"stage1.layers.{layer}.conv_dilated.weight"].grad)
        assert not whole[8:].any() and not whole[:, 8:].any() and whole[:8, :8].any()
    assert gradients["stage1.layers.1.conv_dilated.weight"] is None
    assert gradients["stages.0.conv_1x1.weight"] is None


def test_joined_maps_keep_their_halves():
    supernet, _, _ = supernet_of("mstcn2", space_of("mstcn2", maps=Parameter(choices=(8, 16))))
    whole = supernet.state_dict()["PG.conv_fusion.0.weight"]
    part = supernet.values({"maps": 8})["PG.conv_fusion.0.weight"]
    assert torch.equal(part, torch.cat([whole[:8, :8], whole[:8, 16:24]], dim=1))


def test_what_is_not_a_part_of_the_largest_network_is_refused():
    limits = {"layers": Parameter(low=2, high=5), "maps": Parameter(choices=(8, 16))}
    supernet, space, _ = supernet_of("mstcn", space_of("mstcn", **limits))
    assert space.options(space.largest()) == {"stages": 4, "layers": 5, "maps": 16, "dilations": None}
    for options in ({"maps": 32}, {"layers": 4, "dilations": (1, 4, 16, 64)}, {"layers": 3, "dilations": (1, 2, 4, 8)}):
        assert not supernet.contains({**space.options(space.largest()), **options})
        with pytest.raises(ValueError, match=r"not a part|no layer of dilation 64|has 4 numbers"):
            supernet.use(options)
    model = create_model("srtg_r3d_18", num_classes=2, width=0.125)
    with pytest.raises(ValueError, match="srtg_r3d_18 does not declare how smaller networks share"):
        SuperNetwork(model, "srtg_r3d_18", {"width": 0.125}, num_classes=2)


class _Linear(Task):
    """Mean square of the output."""

    columns = ("Loss",)

    def train_batch(self, model, batch, position, backward):
        loss = output(model, batch).square().mean()
        backward(loss)
        return BatchResult(torch.tensor([[loss.item()], [1.0]]))


def test_a_batch_trains_the_mean_over_the_largest_smallest_and_drawn_networks():
    supernet, space, x = supernet_of("mstcn", space_of("mstcn", maps=Parameter(choices=(8, 16))))
    supernet.eval()
    task = SharedTask(_Linear(), space, sampled=2)
    position = Position(1, 2, 3)
    networks = task.drawn(supernet, position)
    assert len(networks) == 2 and networks == task.drawn(supernet, position)
    assert networks != task.drawn(supernet, replace(position, batch=4))
    result = task.train_batch(supernet, x, position, lambda loss: loss.backward())
    found = {name: value.grad.clone() for name, value in supernet.named_parameters()}
    supernet.zero_grad()
    for genome in (space.largest(), space.smallest(), *networks):
        supernet.use(space.options(genome))
        (output(supernet, x).square().mean() / 4).backward()
    for name, value in supernet.named_parameters():
        torch.testing.assert_close(found[name], value.grad)
    supernet.use(None)
    assert result.sums[0, 0] == output(supernet, x).square().mean()


# Evolution


def test_fronts_and_their_areas():
    scores = [(1.0, 5.0), (2.0, 4.0), (2.0, 4.0), (1.5, 3.0), (3.0, 1.0)]
    assert pareto_front(scores) == [0, 1, 4]
    assert dominated_area([(1.0, 2.0), (2.0, 1.0), (0.5, 0.5)], worst=(0.0, 0.0)) == 3.0
    assert dominated_area([(-1.0, 5.0)], worst=(0.0, 0.0)) == 0.0


def test_evolution_comes_close_to_the_front_and_chance_does_not():
    sizes, first = (6,) * 6, ((5,) * 6, (0,) * 6)

    def scores(genome):
        quality = sum(math.sqrt(gene * weight) for gene, weight in zip(genome, (5, 1, 3, 2, 4, 1), strict=True))
        return quality, -float(sum(gene * cost for gene, cost in zip(genome, (1, 6, 2, 5, 1, 3), strict=True)))

    def area(genomes):
        return dominated_area([scores(genome) for genome in genomes], worst=(0.0, -120.0))

    found = evolve(sizes, scores, trials=150, population=12, seed=3, first=first)
    assert len(found) == 150 and list(found)[:2] == list(first)
    assert list(found) == list(evolve(sizes, scores, trials=150, population=12, seed=3, first=first))
    shorter = evolve(sizes, scores, trials=40, population=12, seed=3, first=first)
    assert list(found)[:40] == list(shorter)
    assert list(evolve(sizes, scores, trials=40, population=12, seed=4, first=first)) != list(shorter)
    chance = evolve(sizes, scores, trials=150, population=150, seed=3, first=first)
    whole = area(product(range(6), repeat=6))
    assert area(found) > 0.95 * whole and area(chance) < 0.93 * whole


def test_refused_architectures_do_not_count_and_a_small_space_ends():
    seen = []

    def scores(genome):
        seen.append(genome)
        return None if sum(genome) > 2 else (float(sum(genome)),)

    found = evolve((3, 3), scores, trials=50, population=4, seed=0, first=((2, 2), (0, 0)))
    assert len(seen) == len(set(seen)) == 9 and seen[0] == (2, 2) and next(iter(found)) == (0, 0)
    assert sorted(found) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]


# From data to runs


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return segmentation_dataset(tmp_path_factory.mktemp("features") / "data", people=2, videos=6)


def segmentation_search(trials=5, **more):
    parameters = {
        f"{PREFIX}stages": Parameter(low=1, high=2),
        f"{PREFIX}layers": Parameter(low=3, high=5),
        f"{PREFIX}maps": Parameter(choices=(8, 16)),
        f"{PREFIX}dilations": Parameter(choices=(None, (1, 4, 16))),
    }
    objectives = tuple(make_objective("segmentation", name) for name in ("score", "operations"))
    settings = {"population": 3, "networks": 2, **more.pop("one_shot", {})}
    return SearchSpace(
        "space.yaml", parameters=parameters, objectives=objectives, method="one-shot", trials=trials, seed=2,
        one_shot=settings, **more,
    )  # fmt: skip


def segmentation_training(**changes):
    values = {"epochs": 3, "lr": 0.01, "device": "cpu", "pictures": False, "splits": ("split1",), "threads": 1}
    return segmentation_options("segmentation", "mstcn", **{**values, "validation_share": 0.3, **changes})


def evaluated(results):
    return [(one.number, one.state, one.values, one.objectives, one.costs, one.epochs) for one in results.trials]


@pytest.fixture(scope="module")
def searched(features, tmp_path_factory):
    out = tmp_path_factory.mktemp("one_shot")
    return out, search_one_shot(segmentation_search(), features, options=segmentation_training(), out=out)


def test_a_one_shot_search_leaves_ordinary_runs(searched):
    out, results = searched
    assert len(results.complete) == 5 and results.trials[0].values[f"{PREFIX}maps"] == 16
    assert len(results.front) > 1
    runs = sorted(path.name for path in (out / "trials").iterdir())
    best = {f"{results.best.number:04d}", f"{results.front[0].number:04d}"}  # first and last of the front
    assert set(runs) == best and len(runs) == 2
    whole = vidseg.load_trained(out / "supernet")
    assert whole.network == "mstcn" and whole.model.stage1.conv_1x1.out_channels == 16
    for name in runs:
        one = results.trials[int(name)]
        trained = vidseg.load_trained(out / "trials" / name)
        width, layers = one.values[f"{PREFIX}maps"], one.values[f"{PREFIX}layers"]
        assert trained.network == "mstcn" and len(trained.model.stage1.layers) == layers
        assert sum(value.numel() for value in trained.model.parameters()) == one.costs["parameters"]
        # The weights are the first part of those of the super-network.
        part = whole.model.state_dict()["stage1.conv_1x1.weight"][:width]
        assert torch.equal(trained.model.state_dict()["stage1.conv_1x1.weight"], part)
        assert trained.test(picture=False)["scores"]["acc"] > 0
    assert f"{len(results.front)} trials on the Pareto front of 5: 5 complete" in str(results)
    assert json.loads((out / "search.json").read_text())["best"]["number"] == results.best.number


def test_a_report_links_the_runs_that_exist(searched):
    out, results = searched
    page = write_search_report(results, out / "report.html").read_text()
    links = {int(name) for name in re.findall(r'href="trials/(\d+)/"', page)}
    assert links == {int(path.name) for path in (out / "trials").iterdir()} and "Pareto front" in page
    assert (out / "pictures/pareto.png").is_file()


def test_a_repeated_search_has_the_same_result_and_a_continued_one_evaluates_nothing_twice(
    searched, features, tmp_path, monkeypatch
):
    results = searched[1]
    again = search_one_shot(segmentation_search(), features, options=segmentation_training(), out=tmp_path)
    assert evaluated(again) == evaluated(results)
    scored = []
    whole = NetworkScorer.score
    monkeypatch.setattr(NetworkScorer, "score", lambda self, genome: scored.append(genome) or whole(self, genome))
    continued = search_one_shot(segmentation_search(trials=7), features, options=segmentation_training(), out=tmp_path)
    assert evaluated(continued)[:5] == evaluated(results) and len(scored) == 2
    other = replace(segmentation_search(), seed=3)
    with pytest.raises(ValueError, match="holds another search, of other seed; choose another --out"):
        search_one_shot(other, features, options=segmentation_training(), out=tmp_path)
    remove_one_shot(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_training_continues(searched, features, tmp_path, monkeypatch):
    whole = SharedTask.train_batch

    def interrupted(self, model, batch, position, backward):
        if position.epoch == 2:
            raise KeyboardInterrupt
        return whole(self, model, batch, position, backward)

    monkeypatch.setattr(SharedTask, "train_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search_one_shot(segmentation_search(), features, options=segmentation_training(), out=tmp_path)
    monkeypatch.setattr(SharedTask, "train_batch", whole)
    results = search_one_shot(segmentation_search(), features, options=segmentation_training(), out=tmp_path)
    assert evaluated(results) == evaluated(searched[1])
    log = (tmp_path / "supernet/train.log").read_text()
    assert "continuing with epoch [3]" in log


def test_found_networks_are_trained_further_within_a_budget(features, tmp_path):
    space = segmentation_search(trials=3, budget={"parameters": 4000.0}, one_shot={"fine_tune": 1, "networks": 1})
    results = search_one_shot(space, features, options=segmentation_training(epochs=1), out=tmp_path)
    assert len(results.complete) == 3 and all(one.costs["parameters"] <= 4000 for one in results.complete)
    refused = results.trials[0]  # the largest network
    assert refused.failure.kind == "over budget" and refused.failure.message.startswith("parameters")
    run = tmp_path / f"trials/{results.best.number:04d}"
    record = json.loads((run / "options.json").read_text())
    assert record["options"]["epochs"] == 1 and record["options"]["lr"] == 0.01
    assert (run / "test.json").is_file()
    shared = torch.load(run / "mstcn_shared_last.pth", weights_only=True)["state_dict"]
    tuned = torch.load(run / "mstcn_last.pth", weights_only=True)["state_dict"]
    assert all(shared[name].shape == value.shape for name, value in tuned.items())
    assert any(not torch.equal(shared[name], value) for name, value in tuned.items())
    again = search_one_shot(space, features, options=segmentation_training(epochs=1), out=tmp_path)
    assert evaluated(again) == evaluated(results)
    assert (run / "train.log").read_text().count("Epoch [1]  (train)") == 1
    # A run of another network in its place is replaced.
    record["network_options"]["maps"] = 4
    (run / "options.json").write_text(json.dumps(record))
    search_one_shot(space, features, options=segmentation_training(epochs=1), out=tmp_path)
    whole = torch.load(run / "mstcn_last.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(whole[name], value) for name, value in tuned.items())


@pytest.mark.parametrize(
    "change, options, error",
    [
        ({"parameters": {"lr": Parameter(low=0.1, high=1.0)}}, {}, "varies the options of one network, not lr"),
        ({"objectives": (make_objective("segmentation", "edit"),)}, {}, "objectives of a one-shot search are score"),
        ({"budget": {"parameters": 10.0}}, {}, "no network of the space is within it; the smallest one has parameters"),
        ({"one_shot": {"sample": 2}}, {}, "unknown setting 'sample'; did you mean 'sampled'"),
        ({"one_shot": {"population": 0}}, {}, "one_shot: population=0 must be at least 1"),
        ({"jobs": 2}, {}, "jobs has no effect on a one-shot search"),
        ({}, {"recompute": True}, "recompute does not work with the shared weights"),
        ({}, {"splits": ()}, r"has the splits split1, split2; a one-shot search has one"),
        ({}, {"select": "last"}, "no validation videos, which choose the networks"),
        (
            {"parameters": {f"{PREFIX}maps": Parameter(choices=(8, 16), when={f"{PREFIX}stages": (1,)})}},
            {},
            "maps: a one-shot search has no conditions",
        ),
        ({"parameters": {f"{PREFIX}dropout": Parameter(low=0.1, high=0.5)}}, {}, "dropout: a range .* without step"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_it_trains(features, tmp_path, change, options, error):
    with pytest.raises(ValueError, match=error):
        space = replace(segmentation_search(), **change)
        search_one_shot(space, features, options=segmentation_training(**options), out=tmp_path)
    assert not list(tmp_path.rglob("*.pth"))


def test_norms_of_a_found_network_have_statistics_of_their_own(tmp_path):
    data = shapes_dataset(tmp_path, videos=16)
    blocks = {f"{PREFIX}blocks.{stage}": Parameter(choices=(1,) if stage else (1, 2)) for stage in range(4)}
    parameters = blocks | {f"{PREFIX}{name}": one for name, one in NARROW.items()}
    space = SearchSpace(
        "space.yaml", parameters=parameters, method="one-shot", trials=3, one_shot={"calibration": 1, "sampled": 1}
    )
    options = recognition_options(
        "synth", network="r2plus1d_18", frames=8, size=40, batch_size=4, epochs=1, lr=0.01, warmup_epochs=0.0,
        optimizer="adamw", device="cpu", pictures=False, threads=1,
    )  # fmt: skip
    options = replace(options, network=replace(options.network, network_option=()))
    results = search_one_shot(space, data, options=options, out=tmp_path / "out")
    assert len(results.complete) == 3
    found = vidseg.load_trained(tmp_path / f"out/trials/{results.best.number:04d}")
    record = json.loads((tmp_path / "out/supernet/options.json").read_text())
    assert record["options"]["precise_bn"] == 1
    # The shared weights, and the statistics that a first batch of the training data gives.
    shared = vidseg.load_trained(tmp_path / "out/supernet")
    state, whole = found.model.state_dict(), shared.model.state_dict()
    assert torch.equal(state["stem.0.weight"], whole["stem.0.weight"][: len(state["stem.0.weight"])])
    norms = [name for name, module in found.model.named_modules() if isinstance(module, nn.BatchNorm3d)]
    assert all(int(state[f"{name}.num_batches_tracked"]) == 1 for name in norms)
    means = {name: state[f"{name}.running_mean"].clone() for name in norms}
    changed = replace(options, network=replace(options.network, network_option=record["options"]["network_option"]))
    changed = replace(changed, data=replace(changed.data, dataset=str(data)))
    training, _ = one_shot._training(changed, tmp_path / "again")
    training.loader.set_epoch(0)
    renew_statistics(found.model, training.loader, 1)
    for name in norms:
        torch.testing.assert_close(found.model.get_submodule(name).running_mean, means[name])
    assert found.test().top1 == pytest.approx(results.best.objectives[0])


def test_the_command_searches_and_continues(features, tmp_path, capsys):
    path = tmp_path / "space.yaml"
    path.write_text(
        "program: segmentation\narchitecture: mstcn\nmethod: one-shot\ntrials: 3\n"
        "options: {epochs: 1, lr: 0.01, device: cpu, pictures: false, splits: [split1], validation-share: 0.3,\n"
        "  network-option.dilations: null}\n"
        "space: {network-option.layers: {low: 3, high: 4}, network-option.maps: [8, 16]}\n"
        "objectives: [score, latency]\none_shot: {networks: 1, population: 2}\n"
    )
    words = ["search", str(path), str(features), "--out", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 3 and all(one["costs"]["latency"] > 0 for one in found["trials"])
    assert set(found["trials"][0]["values"]) == {f"{PREFIX}{name}" for name in ("stages", "layers", "maps")}
    assert main([*words, "--json"]) == 0  # continued: measured latencies are those of the first start
    assert json.loads(capsys.readouterr().out)["trials"] == found["trials"]
    assert main([*words, "--repeat", "2"]) == 2 and "repeat=2 has no effect" in capsys.readouterr().err
    path.write_text("architecture: x3d_xs\n")
    assert main(words) == 2 and "architecture: x3d_xs declares no search space" in capsys.readouterr().err
