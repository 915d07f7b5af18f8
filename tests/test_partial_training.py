"""Training of parts: a frozen backbone, low-rank adapters, learning rates that decrease towards the input."""

import json

import pytest
import torch
from shapes import shapes_dataset
from torch import nn
from trained import ShuffledClips
from training_batches import Batches, linear

import vidseg
from vidseg.cli.main import main
from vidseg.engine import EvaluationOptions, OptimizerOptions, ScheduleOptions, Trainer
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.optimizers import parameter_groups
from vidseg.engine.options import NetworkOptions
from vidseg.engine.runs import RunFolder
from vidseg.models import _registry, add_adapters, create_model, list_models, merge_adapters, model_options, read_state
from vidseg.models._adapters import LowRankLinear, merged_entries
from vidseg.models._classifier import freeze_backbone, head_names
from vidseg.tasks.recognition.options import RecognitionOptions

TRANSFORMERS = ("videomae_small", "vjepa2_large", "timesformer_base")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    if name in TRANSFORMERS:
        options = {"layers": 2} | ({} if name.startswith("vjepa2") else {"frames": 8, "size": 32}) | options
    return create_model(name, num_classes=3, width=0.125, **options)


def trainer(model, *, batches=None, **options) -> Trainer:
    schedule = ScheduleOptions(lr=0.01)
    optimizer = options.pop("optimizer", OptimizerOptions(optimizer="adamw"))
    return Trainer(model, batches or ShuffledClips(), name="net", schedule=schedule, optimizer=optimizer, **options)


def weights(model) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items()}


def changed(before: dict, after: dict) -> set[str]:
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


# Frozen backbone


@pytest.mark.parametrize("name", ["r3d_18", "mtnet_xs", "tsm_r50", "i3d_rgb", "torchvision_mc3_18", *TRANSFORMERS])
def test_only_the_head_of_a_frozen_network_changes(name, tmp_path):
    model = small(name)
    before = weights(model)
    clips = ShuffledClips()
    if name == "mtnet_xs":
        clips.frames = clips.frames.repeat(1, 1, 1, 2, 2)
    trained = trainer(model, batches=clips, freeze_backbone=True, optimizer=OptimizerOptions(ema=0.9))
    trained.fit(1, tmp_path)
    heads = tuple(f"{head}." for head in head_names(model))
    assert changed(before, weights(model)) == {key for key in before if key.startswith(heads)}
    assert all(value.grad is None for key, value in model.named_parameters() if not key.startswith(heads))
    saved = read_checkpoint(tmp_path / "net_last.pth")
    for entries in (saved["state_dict"], saved["trained"]):
        assert changed(before, entries) == {key for key in before if key.startswith(heads)}
    modes = {key: module.training for key, module in model.named_modules() if next(module.children(), None) is None}
    assert {key for key, training in modes.items() if training} == {
        key for key in modes if f"{key}.".startswith(heads) or key == "dropout"
    }


def test_every_recognition_network_has_a_head():
    tasks = list_models(task="recognition")
    kinds = {getattr(_registry._ENTRIES[name].factory, "func", name): name for name in reversed(tasks)}
    assert len(kinds) >= 8
    for name in kinds.values():
        with torch.device("meta"):
            model = create_model(name, num_classes=7)
        (*_, last) = head_names(model)
        assert next(iter(model.get_submodule(last).state_dict().values())).shape[0] in (
            7,
            getattr(model, "num_features", 0),
        )
        share = sum(value.numel() for head in head_names(model) for value in model.get_submodule(head).parameters())
        assert share < 0.5 * sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("name", ["mstcn", "asformer", "diffact", "etad"])
def test_networks_without_a_classifier_behind_a_backbone(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=3)
    with pytest.raises(ValueError, match=rf"freeze_backbone: {type(model).__name__} has no classifier"):
        freeze_backbone(model)


def test_a_network_with_a_backbone_trains_what_follows():
    with torch.device("meta"):
        model = create_model("etesvs", num_classes=3)
    assert freeze_backbone(model) == ("neck", "head")
    assert {key.partition(".")[0] for key, value in model.named_parameters() if value.requires_grad} == {"neck", "head"}


def test_precise_norms_of_a_frozen_backbone_are_refused():
    with pytest.raises(ValueError, match="precise_bn changes the statistics"):
        trainer(linear(), batches=Batches(), freeze_backbone=True, evaluation=EvaluationOptions(precise_bn=2))


# Adapters


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_begin_without_effect_and_merge(name):
    model, clips = small(name).eval(), torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        plain = model(clips)
        names = add_adapters(model, 2, seed=5)
        assert torch.equal(model(clips), plain)
        assert len(names) == 2 * (7 if name == "timesformer_base" else 4)
        trained = {key for key, value in model.named_parameters() if value.requires_grad}
        heads = tuple(f"{head}." for head in model.head_modules)
        assert trained == {
            key for key in dict(model.named_parameters()) if key.endswith((".down", ".up")) or key.startswith(heads)
        }
        for module in model.modules():
            if isinstance(module, LowRankLinear):
                nn.init.normal_(module.up, std=0.1)
        adapted, entries = model(clips), merged_entries(model.state_dict())
        assert not torch.allclose(adapted, plain)
        assert merge_adapters(model) == names and merge_adapters(model) == []
        assert torch.allclose(model(clips), adapted, atol=1e-5)
    assert entries.keys() == model.state_dict().keys() == small(name).state_dict().keys()
    assert all(torch.allclose(value, entries[key], atol=1e-6) for key, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())


def test_adapters_follow_their_seed():
    found = []
    for seed in (1, 1, 2):
        model = small("videomae_small")
        add_adapters(model, 2, seed=seed)
        found.append(model.blocks[0].attn.qkv.down)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("name, rank, words", [
    ("r3d_18", 2, "adapter_rank=2: SrtgResNet has no layers for adapters; use a transformer"),
    ("videomae_small", 0, "adapter_rank=0 must be at least 1"),
])  # fmt: skip
def test_adapters_that_are_refused(name, rank, words):
    with pytest.raises(ValueError, match=words):
        add_adapters(small(name), rank)


def test_adapters_and_a_frozen_backbone_exclude_each_other():
    with pytest.raises(ValueError, match="adapter_rank=2 exclude each other"):
        NetworkOptions(freeze_backbone=True, adapter_rank=2)
    with pytest.raises(ValueError, match="adapter_rank=2 exclude each other"):
        trainer(small("videomae_small"), freeze_backbone=True, adapter_rank=2)
    model = small("videomae_small")
    add_adapters(model, 2)
    with pytest.raises(ValueError, match="already has adapters"):
        add_adapters(model, 2)


def test_only_adapters_and_head_change(tmp_path):
    model = small("videomae_small", drop_path=0.3)
    before = weights(model)
    trainer(model, adapter_rank=2).fit(1, tmp_path)
    after = weights(model)
    kept = {key.replace(".base.", "."): value for key, value in after.items() if not key.endswith((".down", ".up"))}
    assert changed(before, kept) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert all(value.any() for key, value in after.items() if key.endswith(".up"))


# Resuming


@pytest.mark.parametrize(
    "options",
    [
        {"freeze_backbone": True},
        {"adapter_rank": 2},
        {"optimizer": OptimizerOptions(optimizer="adamw", layer_decay=0.5)},
    ],
    ids=["frozen", "adapters", "layer_decay"],
)
def test_a_resumed_run_ends_with_the_same_bits(options, tmp_path):
    network = {"drop_path": 0.3, "dropout": 0.3}
    trainer(small("videomae_small", **network), **options).fit(2, tmp_path / "whole")
    trainer(small("videomae_small", **network), **options).fit(1, tmp_path / "parts")
    other = small("videomae_small", **network)
    for value in other.parameters():  # everything comes from the checkpoint
        nn.init.normal_(value)
    trainer(other, **options).fit(2, tmp_path / "parts", resume=True)
    whole, parts = (read_checkpoint(tmp_path / part / "net_last.pth") for part in ("whole", "parts"))
    assert whole["state_dict"].keys() == parts["state_dict"].keys()
    assert changed(whole["state_dict"], parts["state_dict"]) == set()


# Learning rates by layer


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layer_decay(name):
    model = small(name, layers=3)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.05, decay_all=False, layer_decay=0.5)
    found = {names[id(value)]: group for group in groups for value in group["params"]}
    assert found.keys() == set(names.values()) and len(names) == len(found)
    rates = {key: group["lr_mult"] for key, group in found.items()}
    first = {"patch_embed.proj.weight", "cls_token", "pos_embed", "time_embed"}
    assert all(rate == 0.0625 for key, rate in rates.items() if key in first)
    for index, rate in enumerate((0.125, 0.25, 0.5)):
        assert {rates[key] for key in rates if key.startswith(f"blocks.{index}.")} == {rate}
    heads = tuple(f"{head}." for head in (*model.head_modules, "norm"))
    assert {rates[key] for key in rates if key.startswith(heads)} == {1.0}
    assert (
        found["blocks.1.mlp.fc1.weight"]["name"] == "all, layer 2"
        and found["blocks.1.mlp.fc1.weight"]["weight_decay"] == 0.05
    )
    assert found["blocks.1.norm1.weight"]["name"] == "all, layer 2, no decay"
    assert all(group["weight_decay"] == 0 for key, group in found.items() if "bias" in key or "norm" in key)


def test_layer_decay_moves_layers_by_their_multiple(tmp_path):
    def moved(decay):
        model = small("videomae_small")
        before = weights(model)
        options = OptimizerOptions(momentum=0, weight_decay=0, layer_decay=decay)
        clips = ShuffledClips(16)
        trainer(model, batches=clips, optimizer=options).fit(1, tmp_path / str(decay))
        return {key: (value - before[key]).norm().item() for key, value in model.state_dict().items()}

    slow, fast = moved(0.5), moved(1.0)
    for key, share in (("patch_embed.proj.weight", 0.125), ("blocks.0.attn.qkv.weight", 0.25), ("head.weight", 1.0)):
        assert slow[key] / fast[key] == pytest.approx(share, rel=1e-2)


def test_layer_decay_without_numbered_layers():
    with pytest.raises(ValueError, match=r"layer_decay=0.75: SrtgResNet does not number its layers"):
        trainer(small("r3d_18"), optimizer=OptimizerOptions(layer_decay=0.75))
    with pytest.raises(ValueError, match=r"layer_decay=1.5 must be in \(0, 1\]"):
        OptimizerOptions(layer_decay=1.5)


# Through the commands


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return shapes_dataset(tmp_path_factory.mktemp("partial"), videos=16)


NETWORK = "--network videomae_small --network-option width=0.125 layers=2 frames=4 size=32".split()
SHORT = [*NETWORK, *"--frames 4 --size 32 --batch-size 4 --epochs 1 --lr 0.01 --optimizer adamw --threads 2".split()]


@pytest.mark.parametrize(
    "words", [["--freeze-backbone"], ["--adapter-rank", "2"], ["--layer-decay", "0.75"]], ids=lambda words: words[0][2:]
)
def test_a_run_through_the_commands(words, root, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(root), *SHORT, *words, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["test", str(out), "--json"]) == 0
    top1 = json.loads(capsys.readouterr().out)["loss"]
    last = [float(value) for value in (out / "val_results_s0001.csv").read_text().splitlines()[-1].split(",")][-1]
    assert top1 == pytest.approx(last, rel=1e-4)
    trained = vidseg.load_trained(out)
    assert not any(isinstance(module, LowRankLinear) for module in trained.model.modules())
    assert trained.model.state_dict().keys() == read_state(out / "videomae_small_last.pth").keys()
    assert trained.predict(torch.zeros(1, 3, 4, 32, 32)) is not None


def test_refusals_of_the_commands(root, tmp_path, capsys):
    for words, text in (
        (["--freeze-backbone", "--adapter-rank", "2"], "exclude each other"),
        (["--adapter-rank", "-1"], "adapter_rank=-1 must be at least 0"),
    ):
        assert main(["train", str(root), *SHORT, *words, "--out", str(tmp_path / "run")]) == 2
        assert text in capsys.readouterr().err
    others = "--network r3d_18 --network-option width=0.125 --frames 4 --size 32 --epochs 1 --layer-decay 0.5".split()
    assert main(["train", str(root), *others, "--out", str(tmp_path / "other")]) == 2
    assert "does not number its layers" in capsys.readouterr().err


@pytest.mark.parametrize("recorded, kept", [(["run", "walk"], True), (["walk", "run"], False), (None, True)])
def test_the_classifier_of_weights_for_other_classes_is_not_used(recorded, kept, tmp_path):
    """The classes "run" and "walk" are trained; a file that records no classes is used whole."""
    source, model = (create_model("r3d_18", num_classes=2, width=0.125) for _ in range(2))
    random = {key: value.clone() for key, value in model.fc.state_dict().items()}
    record = {} if recorded is None else {"record": {"classes": recorded}}
    torch.save({"state_dict": source.state_dict(), **record}, tmp_path / "weights.pth")
    network = NetworkOptions("r3d_18", pretrained=str(tmp_path / "weights.pth"))
    folder = RunFolder(tmp_path / "run", "r3d_18", RecognitionOptions())
    report = load_initial(model, network, folder, classes=["run", "walk"])
    expected = source.fc.state_dict() if kept else random
    assert all(value.equal(expected[key]) for key, value in model.fc.state_dict().items())
    assert model.stem[0].weight.equal(source.stem[0].weight)
    assert ("fc.weight" in report.taken) == kept and ("fc.weight" in report.missing) != kept
    assert ("for other classes" in str(report)) != kept


def test_options_of_the_transformers_are_listed():
    for name in TRANSFORMERS:
        assert {"width", "layers", "dropout", "drop_path"} <= model_options(name).keys()
