"""I3D: Inception-v1 inflated to 3-D, the feature extractor of most data sets for temporal segmentation.

"Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017, arXiv 1705.07750. One network takes
RGB frames, another takes optical flow; two-stream features are their concatenation, 2 x 1024 values.

Two PyTorch ports of the published TensorFlow weights have different keys and slightly different arithmetic. Parameter
names are those of pytorch-i3d (`rgb_imagenet.pt`, `flow_imagenet.pt`); `load_weights` also reads files of
kinetics_i3d_pytorch, which SVTAS and video_features use.

Shapes: B clips, C channels, T frames, H, W, K classes.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.models._width import scaled

__all__ = ["I3d", "Port", "own_key"]

Port = Literal["pytorch_i3d", "kinetics_i3d_pytorch"]
"""Port of the weights. "pytorch_i3d": norms with eps=1e-3 and TensorFlow's padding, which depends on the input size.
"kinetics_i3d_pytorch": norms with eps=1e-5 and fixed padding."""

# Output channels of the convolutions in the four branches: 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; 1x1x1 after pooling.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
_POOLS = {  # kernel size and stride of the pooling before a layer
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def own_key(key: str) -> str:
    """Return the key of pytorch-i3d for a key of kinetics_i3d_pytorch; other keys are returned unchanged."""
    key = re.sub(r"^conv3d_0c_1x1\.", "logits.", key)
    key = re.sub(r"^(conv3d|mixed)_", lambda found: f"{found[1].capitalize()}_", key).replace(".batch3d.", ".bn.")
    # The two layers of a branch are "a" and "b"; the pooling "a" of the last branch has no entries.
    return re.sub(
        r"\.branch_(\d)(?:\.([01]))?\.", lambda found: f".b{found[1]}{'ab'[int(found[2])] if found[2] else ''}.", key
    )


def _pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], port: Port) -> Tensor:
    """Pad the last three dimensions with zeros as TensorFlow's "SAME", with the smaller half at the front."""
    pads: list[int] = []
    for length, size, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        # TensorFlow pads to the end of the last window; the other port assumes that the stride divides the length.
        covered = ((length + step - 1) // step - 1) * step + size
        total = covered - length if port == "pytorch_i3d" else size - step
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class _Unit(nn.Module):
    """Convolution, batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, port: Port, stride: int = 1):
        super().__init__()
        self.port = port
        # With stride 1 the padding is symmetric and does not depend on the input size.
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3 if port == "pytorch_i3d" else 1e-5)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv3d.stride[0] > 1:
            x = _pad(x, self.conv3d.kernel_size, self.conv3d.stride, self.port)
        return self.relu(self.bn(self.conv3d(x)))


class _Pool(nn.Module):
    """Max pooling with zero padding, which has no effect on the outputs of a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int], port: Port):
        super().__init__()
        self.pool = nn.MaxPool3d(kernel, stride, ceil_mode=port == "kinetics_i3d_pytorch")
        self.kernel, self.stride, self.port = kernel, stride, port

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(_pad(x, self.kernel, self.stride, self.port))


class _Mixed(nn.Module):
    """Inception block of four branches, whose outputs are concatenated."""

    def __init__(self, inputs: int, channels: tuple[int, ...], port: Port):
        super().__init__()
        self.b0 = _Unit(inputs, channels[0], 1, port=port)
        self.b1a = _Unit(inputs, channels[1], 1, port=port)
        self.b1b = _Unit(channels[1], channels[2], 3, port=port)
        self.b2a = _Unit(inputs, channels[3], 1, port=port)
        self.b2b = _Unit(channels[3], channels[4], 3, port=port)
        self.b3a = nn.MaxPool3d(3, stride=1, padding=1)
        self.b3b = _Unit(inputs, channels[5], 1, port=port)

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3d(nn.Module):
    """3-D Inception-v1; for 400 classes, 12 697 264 parameters for RGB and 12 675 312 for flow.

    The published weights expect values from -1 to 1: RGB, or flow clipped at 20 pixels and divided by 20.

    Args:
        num_classes: K.
        port: arithmetic of the network, see `Port`. If the strides divide the size of the clips, only the epsilon of
            the norms differs.
        dropout: dropout probability before the classifier.
        width: multiplier of all widths, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for flow.

    Raises:
        ValueError: `port` is unknown, or `width` is not positive.
    """

    classifier_name = "logits.conv3d"
    own_key = staticmethod(own_key)

    def __init__(
        self,
        *,
        num_classes: int,
        port: Port = "pytorch_i3d",
        dropout: float = 0.5,
        width: float = 1.0,
        in_channels: int = 3,
    ):
        super().__init__()
        if port not in get_args(Port):
            raise ValueError(f"port={port!r} is not one of {', '.join(get_args(Port))}")

        scale = partial(scaled, width=width)
        self.num_classes = num_classes
        last = [scale(outputs) for outputs in _MIXED["Mixed_5c"]]
        self.num_features = last[0] + last[2] + last[4] + last[5]
        # The classifier is the first entry of the published files, so it is the first module.
        classifier = nn.Conv3d(self.num_features, num_classes, 1)
        self.logits = nn.ModuleDict({"conv3d": classifier})
        self.Conv3d_1a_7x7 = _Unit(in_channels, scale(64), 7, stride=2, port=port)
        self.Conv3d_2b_1x1 = _Unit(scale(64), scale(64), 1, port=port)
        self.Conv3d_2c_3x3 = _Unit(scale(64), scale(192), 3, port=port)
        inputs = scale(192)
        for name, published in _MIXED.items():
            widths = tuple(scale(outputs) for outputs in published)
            self.add_module(name, _Mixed(inputs, widths, port))
            inputs = widths[0] + widths[2] + widths[4] + widths[5]
        self.pools = nn.ModuleDict({name: _Pool(kernel, stride, port) for name, (kernel, stride) in _POOLS.items()})
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(classifier.weight, std=0.01)
        assert classifier.bias is not None
        nn.init.zeros_(classifier.bias)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps (B, 1024, T / 8, H / 32, W / 32) of normalized clips (B, C, T, H, W).

        The sizes are rounded up with port="pytorch_i3d"; the other port may return smaller maps.
        """
        x = clips
        for name in ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", *_MIXED):
            if name in self.pools:
                x = self.pools[name](x)
            x = self.get_submodule(name)(x)
        return x

    def pooled(self, maps: Tensor) -> Tensor:
        """Average feature maps (B, 1024, T', H', W') over space and over pairs of adjacent steps.

        The published spatial pooling is 7x7, the size of the maps for clips of 224 pixels; this one covers the whole
        map for every size.

        Returns:
            (B, 1024, T' - 1, 1, 1); one step if T' = 1.
        """
        steps, height, width = maps.shape[2:]
        return F.avg_pool3d(maps, (min(2, steps), height, width), stride=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K), averaged over time, of normalized clips (B, C, T, H, W)."""
        pooled = self.pooled(self.forward_features(clips))
        return self.logits["conv3d"](self.dropout(pooled)).flatten(2).mean(dim=2)


_INPUT = InputSpec(frames=64, size=224, resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

register_model("i3d_rgb", I3d, input_spec=_INPUT)
register_model("i3d_flow", partial(I3d, in_channels=2), input_spec=replace(_INPUT, modality="flow"))
