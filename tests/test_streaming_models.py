"""Streaming models against the published ones, and what a stream asks of every model: one memory for each video."""

import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from golden_vectors import FOLDER, made_input, made_weight, read_vector, relative_error
from torch import nn

from vidseg.losses.streaming import (
    StreamLoss,
    etesvs_loss,
    frame_loss,
    reward_loss,
    stage_loss,
    stream_reward,
    svtas_rl_loss,
    window_loss,
)
from vidseg.models import create_model, list_models, model_task
from vidseg.models._prompts import BytePairVocabulary, WordVocabulary, in_words, sentence_parts
from vidseg.models._streaming import StreamState
from vidseg.models.block_recurrent import BlockRecurrentHead
from vidseg.models.memory_tcn import MemoryTcnHead
from vidseg.models.mobilenet_tsm import temporal_shift
from vidseg.models.svtas_rl import _Block, _cut, _join

# Trained parameters with 11 classes as published: of the whole, and of its parts.
SIZES = {
    "mobilenet_v2_tsm_frames": (2_237_963, {"backbone": 2_223_872}),
    "etesvs": (15_518_241, {"backbone": 2_223_872, "neck": 13_145_622, "head": 148_747}),
    "etesvs_convlstm": (3_563_564, {"neck": 1_251_873, "head": 87_819}),
    "transeger": (38_444_939, {"image_backbone": 2_305_792, "text_backbone": 35_857_024, "joint": 282_123}),
    "svtas_rl": (95_170_687, {"backbone": 87_638_984, "head": 7_520_428}),
}

# Small networks for 5 classes and windows of 4 frames.
SMALL = {
    "mobilenet_v2_tsm_frames": {"width": 0.25},
    "etesvs": {"width": 0.25, "shift_division": 4},
    "etesvs_convlstm": {"width": 0.25},
    "memory_tcn": {"width": 0.25, "stages": 2, "layers": 2, "channels": 8},
    "block_recurrent": {"width": 0.25, "decoders": 1, "layers": 2, "channels": 8, "state_length": 6},
    "transeger": {
        "width": 0.25,
        "frames": 4,
        "vocabulary_size": 200,
        "text_width": 8,
        "text_layers": 1,
        "text_heads": 2,
        "features": 8,
        "channels": 8,
        "layers": 2,
    },
    "svtas_rl": {
        "swin_channels": 8,
        "depths": (2, 2),
        "heads": (2, 4),
        "window": (2, 3, 3),
        "decoders": 1,
        "layers": 2,
        "channels": 8,
        "state_length": 6,
    },
}
REMEMBERING = sorted(set(SMALL) - {"mobilenet_v2_tsm_frames"})


def small(name: str) -> nn.Module:
    """A small network whose weights make every part of it matter."""
    model = create_model(name, num_classes=5, **SMALL[name]).eval()
    state = {
        key: value if value.dtype == torch.int64 else made_weight(key, list(value.shape))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def video(seed: int, windows: int = 3) -> torch.Tensor:
    """(windows, 3, T, H, W)."""
    return made_input([windows, 3, 4, 32, 32], "normal", seed)


def test_the_registry_knows_them():
    assert sorted(SMALL) == sorted(list_models(task="streaming"))
    assert model_task("etesvs") == "streaming"


@pytest.mark.parametrize("name", SIZES)
def test_published_size(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=11)
    count = lambda module: sum(value.numel() for value in module.parameters() if value.requires_grad)  # noqa: E731
    size, parts = SIZES[name]
    assert count(model) == size
    assert {part: count(getattr(model, part)) for part in parts} == parts


def test_published_size_of_memory_tcn():
    """The table's 2.372 M, cut off rather than rounded, are the earlier code's: dropout in the place of BatchNorm."""
    with torch.device("meta"):
        model = create_model("memory_tcn", num_classes=11, norm="dropout")
    assert sum(value.numel() for value in model.parameters()) == 2_372_619


def test_published_operations():
    """The benchmark's counts of parameters and operations are those of the published tables, to the unit."""
    benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "stream_models.py"))
    rows = [benchmark["measure"](row) for row in benchmark["ROWS"]]
    assert [row["wrong"] for row in rows] == [[]] * len(rows)
    counted = {(row["row"], row["pixels"]): row["counted_operations"] for row in rows}
    assert counted["mobinetv2", 244] == 402_186_176
    assert counted["mobiV2+ms", 244] == 402_349_003 and counted["mobiV2+ms", 224] == 319_195_915
    assert counted["ETESVS, last", 224] == 360_276_758
    assert round(counted["SETE", 224] * 32 / 1e9, 3) == 10.213


def load_made(module: nn.Module, spec: dict) -> None:
    assert [[key, list(value.shape)] for key, value in module.state_dict().items()] == [
        [key, shape] for key, shape, _ in spec["state"]
    ]
    module.load_state_dict({key: made_weight(key, shape, dtype) for key, shape, dtype in spec["state"]})
    module.eval()


def test_published_values_of_etesvs():
    spec, expected = read_vector("etesvs")
    model = create_model("etesvs", num_classes=11)
    load_made(model, spec)
    inputs = {name: made_input(*how) for name, *how in spec["inputs"]}
    outputs, state = [], None
    with torch.no_grad():
        for window in "ab":
            clips, mask = inputs[f"imgs_{window}"].transpose(1, 2), inputs[f"masks_{window}"][:, ::4]
            output, state = model(clips, state, mask)
            outputs += [
                output.logits.repeat_interleave(4, dim=3),
                output.backbone_logits.mean(dim=2),
                output.neck_logits.transpose(1, 2),
            ]
    assert max(relative_error(output, value) for output, value in zip(outputs, expected, strict=True)) < 1e-5


HEADS = {
    "memory_tcn_head": lambda: MemoryTcnHead(48, 11, stages=2, channels=32),
    "brt_head": lambda: BlockRecurrentHead(
        64, 11, decoders=2, encoder_layers=4, decoder_layers=4, channels=32, state_length=32
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_published_values_of_heads(name):
    spec, expected = read_vector(name)
    head = HEADS[name]()
    assert sum(value.numel() for value in head.parameters() if value.requires_grad) == spec["params"]
    load_made(head, spec)
    inputs = {name: made_input(*how) for name, *how in spec["inputs"]}
    masks = {window: inputs[f"mask_{window}"][:, 0, ::4] for window in "ab"}
    with torch.no_grad():
        first, state = head(inputs["x_a"], None, masks["a"])
        second, _ = head(inputs["x_b"], StreamState(state), masks["b"])
        alone, _ = head(inputs["x_b"], None, masks["b"])
    outputs = [logits.repeat_interleave(4, dim=3) for logits in (first, second, alone)]
    assert max(relative_error(output, value) for output, value in zip(outputs, expected, strict=True)) < 1e-5


# Streams


def run(model: nn.Module, windows: list[torch.Tensor], masks: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Logits (N, S, B, K, T) of N windows (B, 3, T, H, W) in order."""
    outputs, state = [], None
    with torch.no_grad():
        for number, clips in enumerate(windows):
            output, state = model(clips, state, None if masks is None else masks[number])
            outputs.append(output.logits)
    return torch.stack(outputs)


@pytest.mark.parametrize("name", SMALL)
def test_a_video_is_labeled_alike_in_every_batch(name):
    """Alone, with a longer video, with a shorter one that has ended, and in a slot that another video has left."""
    model = small(name)
    subject, other, short = video(1), video(2, windows=5), video(3, windows=1)
    alone = run(model, [clips[None] for clips in subject])
    assert alone.shape[1:] == (len(alone[0]), 1, 5, 4)
    together = run(model, [torch.stack(pair) for pair in zip(subject, other, strict=False)])
    assert torch.allclose(together[:, :, :1], alone, atol=1e-5, rtol=1e-4)

    black = torch.full_like(subject[0], -2.0)
    beside = [torch.stack([black if window else short[0], clips]) for window, clips in enumerate(subject)]
    masks = [torch.tensor([[float(window == 0)] * 4, [1.0] * 4]) for window in range(3)]
    assert torch.allclose(run(model, beside, masks)[:, :, 1:], alone, atol=1e-5, rtol=1e-4)

    outputs, state = [], None
    with torch.no_grad():
        for window in range(4):
            first = short[0] if window == 0 else subject[window - 1]
            if window == 1 and len(state):
                state = state.clear([0])
            output, state = model(torch.stack([first, other[window]]), state)
            outputs.append(output.logits)
    assert torch.allclose(torch.stack(outputs[1:])[:, :, :1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", REMEMBERING)
def test_memory_reaches_the_next_window(name, tmp_path):
    model = small(name)
    first, second = video(1, windows=2)[:, None]
    output, state = model(first)
    assert state.videos == 1 and len(state) > 0
    assert not any(value.requires_grad for value in state.values())
    fresh = model(second)[0].logits
    followed = model(second, state)[0].logits
    assert (followed - fresh).norm() > 1e-3 * fresh.norm()
    torch.save(state.state_dict(), tmp_path / "state.pt")
    restored = StreamState(torch.load(tmp_path / "state.pt", weights_only=True)).to("cpu").detach()
    assert torch.equal(model(second, restored)[0].logits, followed)
    assert torch.equal(model(second, state.clear([0]))[0].logits, fresh)
    assert output.logits.requires_grad


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_from_one_window(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **SMALL[name]).train()
    state = None
    for clips in video(1, windows=2)[:, None].expand(2, 2, 3, 4, 32, 32):
        output, state = model(clips, state)
        if name == "transeger":
            state = model.observe(state, torch.tensor([[0, 0, 1, 2], [3, 4, 4, 4]]))
    loss = output.logits.square().sum()
    for extra in (output.backbone_logits, output.neck_logits):
        if extra is not None:
            loss = loss + extra.square().sum()
    loss.backward()
    silent = {key for key, value in model.named_parameters() if value.requires_grad and value.grad is None}
    # The published linear layer that nothing reads, and state paths that a window cannot reach backwards.
    unread = {"neck.rnn_conv.fc_frames_cls.weight", "neck.rnn_conv.fc_frames_cls.bias"}
    states = ("state_self_attn", "state_input_cross_attn", "_gate", "state_proj", "state_ff")
    assert {key for key in silent if not any(part in key for part in states)} == (
        unread if name == "etesvs_convlstm" else set()
    )


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"svtas_rl"}))
def test_padding_is_not_looked_at(name):
    model = small(name)
    clips = video(1, windows=1)
    other = clips.clone()
    other[:, :, 3] = 7.0
    mask = torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        first, second = model(clips, None, mask)[0].logits, model(other, None, mask)[0].logits
    assert torch.equal(first, second)
    assert first[..., :3].abs().min() > 0 and not first[..., 3].any()


def test_memory_tcn_windows_are_one_causal_pass():
    head = MemoryTcnHead(6, 3, stages=2, layers=3, channels=8).eval()
    features = made_input([2, 6, 20], "normal", 5)
    with torch.no_grad():
        whole, _ = head(features)
        parts, state = [], None
        for part in features.split([3, 9, 1, 7], dim=2):
            logits, pasts = head(part, state)
            parts.append(logits)
            state = StreamState(pasts)
        future = features.clone()
        future[:, :, 12:] += 1
        assert torch.allclose(head(future)[0][..., :12], whole[..., :12], atol=1e-6)
    assert torch.allclose(torch.cat(parts, dim=3), whole, atol=1e-6)


def test_states_are_values():
    state = StreamState({"a": torch.ones(3, 2), "b": torch.ones(3, dtype=torch.int64)})
    assert state.clear([1])["a"].tolist() == [[1, 1], [0, 0], [1, 1]] and state["a"].all()
    assert state.take([2, 2]).videos == 2 and StreamState({}).videos == 0
    assert repr(state) == "StreamState(a (3, 2), b (3,))"
    with pytest.raises(ValueError, match="different numbers of videos"):
        StreamState({"a": torch.ones(3), "b": torch.ones(2)})


def test_wrong_calls_are_refused():
    model = small("memory_tcn")
    clips = video(1, windows=2)
    _, state = model(clips)
    with pytest.raises(ValueError, match=r"state 'stage1.layer0' is \(2, 8, 4\), expected \(1, 8, 4\)"):
        model(clips[:1], state)
    with pytest.raises(ValueError, match=r"state 'stage1\.layer0' is missing"):
        model(clips, StreamState({"hidden": torch.zeros(2, 1)}))
    with pytest.raises(ValueError, match="mask has shape"):
        model(clips, None, torch.ones(2, 5))
    with pytest.raises(ValueError, match="state_length=6"):
        BlockRecurrentHead(4, 3, channels=8, state_length=6)(torch.zeros(1, 4, 7))


@pytest.mark.parametrize(
    "name, option",
    [
        ("etesvs", {"frame_scores": "mine"}),
        ("etesvs", {"width": 0.0}),
        ("memory_tcn", {"norm": "layer"}),
        ("memory_tcn", {"stages": 0}),
        ("memory_tcn", {"shift_division": 1}),
        ("block_recurrent", {"channels": 7}),
        ("svtas_rl", {"heads": (3,), "depths": (1,)}),
        ("svtas_rl", {"depths": (1,)}),
        ("transeger", {"class_names": ["walk"]}),
        ("transeger", {"vocabulary_size": 20}),
    ],
)
def test_wrong_options_are_refused(name, option):
    with pytest.raises(ValueError, match=f"{next(iter(option.values()))}|heads|class names|fit"), torch.device("meta"):
        create_model(name, num_classes=5, **option)


# Parts


def test_temporal_shift_by_definition():
    x = made_input([2 * 5, 8, 2, 3], "normal", 1)
    shifted, clips = temporal_shift(x, 5, 4).view(2, 5, 8, 2, 3), x.view(2, 5, 8, 2, 3)
    for frame in range(5):
        following = clips[:, frame + 1, :2] if frame < 4 else torch.zeros(2, 2, 2, 3)
        previous = clips[:, frame - 1, 2:4] if frame else torch.zeros(2, 2, 2, 3)
        assert torch.equal(shifted[:, frame, :2], following)
        assert torch.equal(shifted[:, frame, 2:4], previous)
        assert torch.equal(shifted[:, frame, 4:], clips[:, frame, 4:])
    assert temporal_shift(x, 5, 30) is x


def test_etesvs_frame_scores():
    model = small("etesvs")
    clips = made_input([2, 3, 4, 32, 32], "normal", 1)
    with torch.no_grad():
        published = model(clips)[0]
        model.neck.frame_scores = "corrected"
        corrected = model(clips)[0]
        pooled = model.backbone(clips, torch.ones(2, 4))[1].mean(dim=(3, 4))
        recurrent = model.neck.rnn_conv.lstm(pooled.transpose(0, 1))[0].transpose(0, 1)
        frames = model.neck.rnn_conv.fc_frames_cls(recurrent)
        mixed = model.neck.rnn_conv.fc_frames_cls(recurrent.transpose(1, 2).reshape(recurrent.shape))
    assert torch.equal(published.logits, corrected.logits)
    assert torch.allclose(corrected.neck_logits, frames.transpose(1, 2), atol=1e-6)
    assert torch.allclose(published.neck_logits, mixed.transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4, 6), (3, 5, 7), (2, 4, 6), (1, 2, 3)])
def test_shifted_window_attention_by_definition(size):
    window, shift, channels, heads = (2, 2, 3), (1, 1, 1), 4, 2
    block = _Block(channels, heads, window, shift, 0.0)
    attention = block.attn
    nn.init.normal_(attention.relative_position_bias_table)
    x = made_input([1, *size, channels], "normal", 1)
    with torch.no_grad():
        found = block._attend(x)[0]
    fits = [side <= part for side, part in zip(size, window, strict=True)]
    # A side that fits is one window of its own length; only the first may be shorter here, as in the published index.
    used = [side if fit else part for side, part, fit in zip(size, window, fits, strict=True)]
    moved = [0 if fit else 1 for fit in fits]
    padded = [math.ceil(side / part) * part for side, part in zip(size, used, strict=True)]
    full = torch.zeros(*padded, channels)
    full[: size[0], : size[1], : size[2]] = x[0]
    places = [(a, b, c) for a in range(padded[0]) for b in range(padded[1]) for c in range(padded[2])]

    def locate(place):
        rolled = [(p - m) % n for p, m, n in zip(place, moved, padded, strict=True)]
        wrapped = [p - m < 0 for p, m in zip(place, moved, strict=True)]
        return (
            [r // u for r, u in zip(rolled, used, strict=True)],
            [r % u for r, u in zip(rolled, used, strict=True)],
            wrapped,
        )

    with torch.no_grad():
        q, k, v = attention.qkv(full.reshape(-1, channels)).view(len(places), 3, heads, -1).unbind(1)
        for row, place in enumerate(places):
            if any(p >= n for p, n in zip(place, size, strict=True)):
                continue
            home, inside, wrapped = locate(place)
            scores = torch.full((heads, len(places)), -torch.inf)
            for column, other in enumerate(places):
                its_home, its_inside, its_wrapped = locate(other)
                if its_home == home and its_wrapped == wrapped:
                    d = [a - b + w - 1 for a, b, w in zip(inside, its_inside, window, strict=True)]
                    bias = attention.relative_position_bias_table[(d[0] * 3 + d[1]) * 5 + d[2]]
                    scores[:, column] = (q[row] * k[column]).sum(1) / math.sqrt(channels // heads) + bias
            out = attention.proj(torch.einsum("hn,nhc->hc", scores.softmax(1), v).flatten())
            assert torch.allclose(found[place], out, atol=1e-5)


def test_windows_are_cut_and_joined():
    x = made_input([2, 4, 6, 6, 3], "normal", 1)
    windows = _cut(x, (2, 3, 2))
    assert windows.shape == (2 * 2 * 2 * 3, 12, 3)
    assert torch.equal(windows[0], x[0, :2, :3, :2].reshape(12, 3))
    assert torch.equal(_join(windows, (2, 3, 2), (4, 6, 6)), x)


# Transeger's sentences


def test_numbers_in_words():
    known = {0: "zero", 13: "thirteen", 20: "twenty", 32: "thirty-two", 100: "one hundred", 101: "one hundred and one"}
    known |= {
        342: "three hundred and forty-two",
        1000: "one thousand",
        1234: "one thousand, two hundred and thirty-four",
    }
    assert {number: in_words(number) for number in known} == known
    with pytest.raises(ValueError, match="10000"):
        in_words(10_000)


def test_parts_of_a_sentence():
    assert sentence_parts(2) == (
        "This is the second action, ",
        "This action lasted two frames in current windows, ",
        "This is frame two of the action, ",
    )
    ordinals = {number: sentence_parts(number)[0].split(",")[0].split("the ")[1] for number in range(1, 33)}
    assert [ordinals[number] for number in (1, 2, 3)] == ["first action", "second action", "third action"]
    assert [ordinals[number] for number in (11, 12, 16)] == ["eleventhly", "twelfthly action", "sixteenth"]
    assert [ordinals[number] for number in (9, 20, 21, 32)] == [
        "ninth action", "twentieth action", "twenty-first action", "thirty-second action",
    ]  # fmt: skip


def test_transeger_reads_the_sentences_of_a_window():
    names = [f"verb {letter}" for letter in "abcde"]
    model = create_model("transeger", num_classes=5, class_names=names, **SMALL["transeger"])
    prompts, words = model.text_backbone.encoder.prompt_learner, WordVocabulary(names, size=200)
    labels = [3, 3, 0, 3]
    found = prompts.numbers(torch.tensor([labels]))[0].tolist()
    for frame, (segment, length) in enumerate([(1, 2), (1, 2), (2, 1), (3, 1)]):
        text = sentence_parts(segment)[0] + sentence_parts(length)[1] + sentence_parts(frame + 1)[2]
        contexts = [200 + 8 * labels[frame] + number for number in range(8)]
        expected = [198, *words.encode(text), *contexts, *words.encode(f"{names[labels[frame]]}."), 199]
        assert found[frame] == expected + [-1] * (prompts.tokens - len(expected))


def test_byte_pairs(tmp_path):
    merges = ["#version", "t h", "th e</w>", "c u", "cu t</w>", "t o"]
    (tmp_path / "merges.txt").write_text("\n".join(merges))
    vocabulary = BytePairVocabulary(tmp_path / "merges.txt")
    assert vocabulary.size == 512 + 5 + 2
    the, cut, to = 513, 515, 516
    letter = lambda character, last=False: ord(character) - ord("!") + 256 * last  # noqa: E731
    assert vocabulary.encode("The  cut") == [the, cut]
    assert vocabulary.encode("tot_1") == [to, letter("t", True), letter("_", True), letter("1", True)]
    (tmp_path / "wrong.txt").write_text("#version\na b\na b c")
    with pytest.raises(ValueError, match=r"wrong.txt:3: 'a b c'"):
        BytePairVocabulary(tmp_path / "wrong.txt")


def test_words():
    vocabulary = WordVocabulary(["cut tomato", "add_dressing"], size=120)
    numbers = vocabulary.encode("".join(sentence_parts(1)) + "cut tomato.")
    assert len(set(vocabulary.encode("cut tomato add _ dressing ."))) == 6
    assert max(numbers) < 118 and vocabulary.encode("Cut") == vocabulary.encode("cut")
    with pytest.raises(ValueError, match="'slice'"):
        vocabulary.encode("slice")


def test_transeger_reads_observed_labels():
    model = small("transeger")
    clips = video(1, windows=1).expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        output, state = model(clips)
        assert torch.equal(state["previous"], output.logits[-1].argmax(dim=1))
        told = [
            model.observe(state, torch.tensor(labels).repeat_interleave(2, dim=1))
            for labels in ([[0, 1, 2, 3], [4, 4, 4, 4]], [[0, 1, 2, 3], [0, 1, 2, -100]])
        ]
        assert [one["status"].tolist() for one in told] == [[1, 1], [1, 2]]
        results = [model(clips, one)[0].logits[0] for one in told]
        assert torch.equal(results[0][0], results[1][0])
        assert not torch.allclose(results[0][0], results[0][1]) and not torch.allclose(results[0][1], results[1][1])
    with pytest.raises(ValueError, match="label 5 is out of range for 5 classes"):
        model.observe(state, torch.tensor([[0, 1, 2, 5], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 6\)"):
        model.observe(state, torch.zeros(2, 6, dtype=torch.int64))
    with pytest.raises(ValueError, match="windows of 3 frames"):
        model(clips[:, :, :3])


# Losses


def loss_cases() -> list[tuple[dict, str]]:
    cases = json.loads((FOLDER / "streaming_losses.json").read_text())["cases"]
    return [(case, name) for case in cases for name in case["expected"]]


@pytest.mark.parametrize("case, name", loss_cases(), ids=lambda value: value if isinstance(value, str) else "")
def test_published_losses(case, name):
    stages, videos, classes, frames, rate, seed = (
        case[key] for key in ("stages", "videos", "classes", "frames", "sample_rate", "seed")
    )
    logits = made_input([stages, videos, classes, frames], "normal", seed).requires_grad_()
    backbone = made_input([videos, classes, frames // rate], "normal", seed + 1)
    neck = made_input([videos, classes, frames // rate], "normal", seed + 2)
    labels = made_input([videos, frames], f"int:{classes}", seed + 3)
    for row, valid in enumerate(case["valid"]):
        labels[row, valid:] = -100
    windows = torch.tensor(case["precise_num_windows"])
    result = {
        "segmentation_smooth_0.5": lambda: stage_loss(logits, labels, windows=windows, smoothing=0.5),
        "segmentation_smooth_0": lambda: stage_loss(logits, labels, windows=windows, smoothing=0),
        "reward_beta2_-1_smooth_0.15": lambda: reward_loss(logits, labels, windows=windows, smoothing=0.15),
        "reward_beta2_-0.5_smooth_0": lambda: reward_loss(logits, labels, windows=windows, offset=-0.5),
        "stream_total": lambda: svtas_rl_loss(logits, backbone, labels, windows=windows, smoothing=0.15),
        "etesvs": lambda: etesvs_loss(logits, backbone, neck, labels),
    }[name]()
    expected = case["expected"][name]
    total = result.total if isinstance(result, StreamLoss) else result
    total.backward()
    found = {"loss": total, "grad_head_norm": logits.grad.norm()}
    if isinstance(result, StreamLoss):
        found |= {f"{part}_loss": value for part, value in result.parts.items() if f"{part}_loss" in expected}
    assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-5)


def test_logits_at_a_lower_rate_count_for_all_their_frames():
    logits = made_input([2, 3, 4, 6], "normal", 1)
    labels = made_input([3, 18], "int:4", 2)
    spread = logits.repeat_interleave(3, dim=3)
    assert torch.equal(stage_loss(logits, labels), stage_loss(spread, labels))
    assert torch.equal(stream_reward(logits, labels), stream_reward(spread, labels))
    assert torch.equal(frame_loss(logits[0], labels), frame_loss(logits[0], labels[:, ::3]))
    for loss in (frame_loss, window_loss):
        with pytest.raises(ValueError, match="the number of labels, 17, is not a multiple of the 6 columns"):
            loss(logits[0], labels[:, :17])
    with pytest.raises(ValueError, match="the number of labels, 17"):
        stage_loss(logits, labels[:, :17])


def test_windows_without_labels_cost_nothing():
    logits = made_input([1, 2, 4, 6], "normal", 1).requires_grad_()
    labels = torch.full((2, 6), -100)
    total = etesvs_loss(logits, logits[0], logits[0], labels, neck_weight=1.0).total
    total.backward()
    assert total.item() == 0 and not logits.grad.any()
    labels[0] = 1
    single = stage_loss(logits[:, :1], labels[:1], smoothing=0)
    assert torch.allclose(stage_loss(logits, labels, smoothing=0), single)


def test_reward_is_between_its_ends():
    labels = torch.tensor([[0, 1, 2, 3]])
    sure = torch.nn.functional.one_hot(labels, 4).movedim(2, 1)[None] * 50.0
    assert stream_reward(sure, labels).item() == pytest.approx(3.0, abs=1e-3)
    assert stream_reward(-sure, labels).item() < 0.5
    assert stream_reward(sure, labels, base=2.0, offset=-0.5).item() == pytest.approx(1.5, abs=1e-3)
