"""Grad-CAM and integrated gradients: heat where the network looks, sums as the axiom says, and the drawn results."""

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vidseg
from vidseg.cli.main import main
from vidseg.engine.attribution import grad_cam, integrated_gradients
from vidseg.engine.explanation import clip_heat
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.models import InputSpec, create_model
from vidseg.plots import overlay_heat

CLIP = (2, 3, 4, 32, 32)


class Corner(nn.Module):
    """Logit 1 is the brightness of the upper left quarter of the second half of the frames; logit 0 is constant.

    Args:
        layout: shape of the maps that its only module gives.
    """

    def __init__(self, layout="BDTHW"):
        super().__init__()
        self.layout = layout
        conv = nn.Conv2d if layout in ("MDHW", "BTDHW") else nn.Conv3d
        size = 8 if conv is nn.Conv2d else (1, 8, 8)
        self.embed = conv(3, 6, size, stride=size)
        nn.init.constant_(self.embed.weight, 1.0)
        nn.init.zeros_(self.embed.bias)
        self.tokens = nn.Identity()
        self.register_buffer("eye", torch.zeros(4, 4, 4))
        self.eye[2:, :2, :2] = 1

    def forward(self, clips):
        batch = len(clips)
        if self.layout in ("MDHW", "BTDHW"):
            maps = self.embed(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1))
            maps = (self.tokens(maps) if self.layout == "BTDHW" else maps).transpose(1, 2)
        else:
            maps = self.embed(clips)
        if self.layout in ("tokens", "class token"):
            tokens = maps.flatten(2).transpose(1, 2)
            if self.layout == "class token":
                tokens = torch.cat([tokens[:, :1], tokens], dim=1)
            tokens = self.tokens(tokens)
            maps = tokens[:, -64:].transpose(1, 2).unflatten(2, (4, 4, 4))
        seen = (maps.mean(dim=1) * self.eye).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(seen), seen], dim=1)


class Declared(Corner):
    """Gives its maps through `forward_features`, which is used before any module with later maps."""

    def forward_features(self, clips):
        return self.embed(clips)

    def forward(self, clips):
        maps = self.forward_features(clips)
        self.tokens(maps.flip(3, 4))  # later maps, on which the score does not depend
        seen = (maps.mean(dim=1) * self.eye).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(seen), seen], dim=1)


def share_in_corner(heat):
    return float(heat[:, 2:, :16, :16].sum() / heat.sum())


@pytest.mark.parametrize("name", ["videomae_small", "vjepa2_large", "timesformer_base"])
def test_tokens_of_transformers_are_read_in_their_order(name):
    """A patch that differs from all others changes the heat most where it is."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, width=0.25, layers=2).eval()
    length = 2 if name == "timesformer_base" else 4
    plain = torch.zeros(1, 3, 2 * length, 96, 64)
    changed = plain.clone()
    changed[:, :, length:, 64:80, 16:32] = 4 * torch.randn(3, length, 16, 16)

    def either(clips):  # what raises the logit and what lowers it
        return sum(grad_cam(model, clips, lambda x, sign=sign: sign * model(x)[:, 1]) for sign in (1, -1))

    difference = (either(changed) - either(plain)).abs()[0]
    frame, row, column = (int(place) for place in np.unravel_index(int(difference.argmax()), difference.shape))
    assert frame >= length and 64 <= row < 80 and 16 <= column < 32


@pytest.mark.parametrize("layout", ["BDTHW", "BTDHW", "MDHW", "tokens", "class token", "declared"])
def test_heat_is_where_the_network_looks(layout):
    model = Declared() if layout == "declared" else Corner(layout)
    model.eval()
    clips = torch.rand(CLIP, generator=torch.Generator().manual_seed(0)) + 0.5
    heat = grad_cam(model, clips, lambda x: model(x)[:, 1])
    assert heat.shape == (2, 4, 32, 32) and float(heat.min()) >= 0
    # Grad-CAM weighs whole channels, so its heat follows the maps: bright everywhere, unless only the corner is.
    dark = clips.clone()
    dark[:, :, :2], dark[:, :, :, 16:], dark[..., 16:] = 0, 0, 0
    assert share_in_corner(grad_cam(model, dark, lambda x: model(x)[:, 1])) > 0.8
    sums = integrated_gradients(model, clips, lambda x: model(x)[:, 1], steps=2)
    assert share_in_corner(sums.sum(dim=1)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="no spatial feature maps that the score depends on"):
        grad_cam(model, clips, lambda x: model(x)[:, 0] + x.sum() * 0)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert "forward_features" not in vars(model) and not model.embed._forward_hooks


def test_grad_cam_is_the_formula():
    """One clip by hand: weights are means of the gradients, negative sums are cut."""
    torch.manual_seed(0)
    conv = nn.Conv3d(1, 5, 3, padding=1)
    head = nn.Linear(5 * 2 * 4 * 4, 2)

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = conv, head

        def forward(self, clips):
            return self.head(self.conv(clips).relu().flatten(1))

    clips = torch.randn(1, 1, 2, 4, 4)
    maps = conv(clips).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(head(maps.relu().flatten(1))[0, 1], maps)
    expected = (gradient.mean(dim=(2, 3, 4), keepdim=True) * maps).sum(dim=1).relu()
    model = Small().eval()
    torch.testing.assert_close(grad_cam(model, clips, lambda x: model(x)[:, 1]), expected.detach())
    torch.testing.assert_close(grad_cam(model, clips, lambda x: model(x)[:, 1], layer="conv"), expected.detach())


@pytest.mark.parametrize("baseline", [None, 0.3])
def test_integrated_gradients_are_complete(baseline):
    """The values sum to the difference of the scores (the completeness axiom)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2), nn.Softplus(), nn.Flatten(), nn.LazyLinear(5), nn.Tanh())
    clips = torch.randn(2, 3, 4, 16, 16)
    start = None if baseline is None else torch.full((1, 1, 1, 1, 1), baseline)
    model(clips)
    found = integrated_gradients(model.eval(), clips, lambda x: model(x)[:, 2], baseline=start, steps=24)
    assert found.shape == clips.shape
    first = torch.zeros_like(clips) if start is None else start.expand_as(clips)
    difference = (model(clips) - model(first))[:, 2].detach()
    torch.testing.assert_close(found.flatten(1).sum(dim=1), difference, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="steps=0"):
        integrated_gradients(model, clips, lambda x: model(x)[:, 2], steps=0)


def test_integrated_gradients_equal_captum():
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 3, stride=2), nn.GELU(), nn.Flatten(), nn.LazyLinear(5)).eval()
    clips = torch.randn(2, 3, 4, 16, 16)
    model(clips)
    expected = captum.IntegratedGradients(model).attribute(clips, target=3, n_steps=16, method="gausslegendre")
    found = integrated_gradients(model, clips, lambda x: model(x)[:, 3], steps=16)
    torch.testing.assert_close(found, expected.to(found), atol=1e-5, rtol=1e-4)


def test_wrong_use():
    model, clips = Corner().eval(), torch.rand(CLIP)

    def score(x):
        return model(x)[:, 1]

    with pytest.raises(ValueError, match="did you mean 'embed'"):
        grad_cam(model, clips, score, layer="embde")
    with pytest.raises(ValueError, match="method='cam' is not one of grad-cam, integrated-gradients"):
        clip_heat(model, clips, score, method="cam")
    with pytest.raises(ValueError, match="use no layer"):
        clip_heat(model, clips, score, method="integrated-gradients", layer="embed")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 32 * 32, 2))
    with pytest.raises(ValueError, match="the network \\(Sequential\\) has no spatial feature maps"):
        grad_cam(flat, clips, lambda x: flat(x)[:, 1])


def test_overlay_colors_the_region_only():
    pixels = np.full((40, 60, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[:2, :2] = 1
    drawn = overlay_heat(pixels, heat, (0.25, 0.0, 0.75, 1.0)).astype(int)
    assert (drawn[:, :15] == 50).all() and (drawn[:, 45:] == 50).all()  # darkened
    assert (drawn[30:, 35:45] == 100).all()
    assert np.abs(drawn[2:10, 17:25] - 100).max(axis=-1).min() > 20


@pytest.mark.parametrize("crop, size", [("center", (40, 64)), ("center", (64, 40)), ("stretch", (40, 64))])
def test_the_region_is_the_part_that_the_network_sees(crop, size):
    spec = InputSpec(frames=4, size=16, resize=None if crop == "stretch" else 20, crop=crop)
    preparer = FramePreparer(spec)
    left, top, right, bottom = preparer.region(*size)
    pixels = np.zeros((*size, 3), np.uint8)
    height, width = size
    pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 255
    seen = preparer(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
    white = preparer(av.VideoFrame.from_ndarray(np.full_like(pixels, 255), format="rgb24"))
    assert float((seen - white)[:, 1:-1, 1:-1].abs().max()) < 0.05


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(create_model("r2plus1d_18", num_classes=3, width=0.125).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory, make_video):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    make_video(path, frames=11, size=(48, 64))
    return path


def test_explanation_of_a_recognition_network(weights, video, tmp_path, capsys):
    trained = vidseg.load_trained(
        weights, network="r2plus1d_18", network_options={"width": 0.125}, classes=["a", "b", "c"],
        frames=4, interval=2, size=32,
    )  # fmt: skip
    found = trained.explain(video, target="b")
    assert found.numbers.tolist() == [0, 2, 4, 6, 8, 10]  # 8 frames in the first clip, 3 in the second
    assert found.heat.shape == (6, 32, 32) and found.heat.max() == pytest.approx(1) and found.heat.min() >= 0
    assert all("  b" in text for text in found.texts)
    words = [str(weights), str(video), "--network", "r2plus1d_18", "--network-option", "width=0.125", "--frames", "4"]
    words += ["--size", "32", "--device", "cpu"]
    assert main(["plot", "cam", *words, "--class", "2", "--out", str(tmp_path / "cam.png")]) == 0
    assert Image.open(tmp_path / "cam.png").size[0] > 800
    assert main(["plot", "cam", *words, "--out", str(tmp_path / "cam.mp4")]) == 0
    with av.open(str(tmp_path / "cam.mp4")) as drawn:
        assert sum(1 for _ in drawn.decode(video=0)) == 11
    steps = ["--method", "integrated-gradients", "--steps", "2"]
    assert main(["plot", "cam", *words, *steps, "--out", str(tmp_path / "sums.png")]) == 0
    capsys.readouterr()
    assert main(["plot", "cam", *words, "--class", "4"]) == 2
    assert "unknown class '4'; the network has 0, 1, 2" in capsys.readouterr().err
    assert main(["plot", "cam", words[0], "absent.mp4", *words[2:]]) == 2


def test_explanation_of_a_streaming_network_follows_its_memory(video, tmp_path):
    """Windows are those of the labeler, in order, each with the state of the one before it."""
    torch.manual_seed(0)
    path = tmp_path / "stream.pt"
    torch.save(create_model("etesvs", num_classes=3, width=0.1).state_dict(), path)
    trained = vidseg.load_trained(
        path, network="etesvs", network_options={"width": 0.1}, classes=["a", "b", "c"],
        frames=4, interval=1, stride=3, size=32,
    )  # fmt: skip
    states = []
    inner = trained.model.forward

    def forward(clips, state=None, mask=None):
        states.append(state)
        return inner(clips, state, mask)

    trained.model.forward = forward
    found = trained.explain(video)
    assert found.numbers.tolist() == list(range(11)) and float(found.heat.max()) == pytest.approx(1)
    assert states[:2] == [None, None] and all(state is not None for state in states[2:])
    assert states[2] is states[3] and states[3] is not states[4]  # label and explain with one state
    labels = trained.predict(video).labels
    assert [text.split()[-1] for text in found.texts] == [trained.classes[label] for label in labels]


def test_networks_without_pixels_are_refused(tmp_path):
    path = tmp_path / "mstcn.pt"
    torch.save(create_model("mstcn", num_classes=3, in_features=8).state_dict(), path)
    options = {"in_features": 8}
    trained = vidseg.load_trained(path, network="mstcn", network_options=options, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="mstcn is a network for segmentation; only networks for recognition"):
        trained.explain("video.mp4")
