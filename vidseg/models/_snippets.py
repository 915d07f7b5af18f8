"""Detection from pixels: a recognition network encodes short snippets of a video, and a detector takes their features.

Source: ETAD (arXiv 2205.07134), section 3.1.

Shapes: B videos, L snippets, T frames of a snippet, H, W, D feature width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidseg.models._classifier import classifier_name
from vidseg.models._detection import DetectionOutput
from vidseg.models._input_spec import InputSpec
from vidseg.models._quantized import quantized_layers

__all__ = ["SnippetDetector", "SnippetEncoder"]


class SnippetEncoder(nn.Module):
    """A recognition network without its classifier, from pixels to features.

    It is always in evaluation mode: norms have fixed statistics and nothing is dropped, so that a snippet has the same
    features whatever snippets are encoded with it.

    Args:
        network: a recognition network; its classifier is removed.
        spec: its input spec, for normalization and the order of channels.
        frozen: names of the first layers, such as stem and layer1, that are not trained.

    Attributes:
        out_features: D.

    Raises:
        ValueError: the network has no classifier, or no layer of a name in `frozen`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec, *, frozen: Sequence[str] = ()) -> None:
        super().__init__()
        name = classifier_name(network)
        if name is None:
            raise ValueError(f"{type(network).__name__} has no classifier whose input could be the features")
        classifier = network.get_submodule(name)
        width = getattr(classifier, "in_features", None) or getattr(classifier, "in_channels", None)
        if not isinstance(width, int):
            raise ValueError(
                f"the classifier of {type(network).__name__}, {name}, is not a linear layer or convolution"
            )
        network.set_submodule(name, nn.Identity())
        self.network, self.out_features, self.spec = network, width, spec
        layers = dict(network.named_children())
        for layer in frozen:
            if layer not in layers:
                raise ValueError(f"frozen={layer!r} is not a layer of the encoder; it has {', '.join(layers)}")
            layers[layer].requires_grad_(False)
        order = (2, 1, 0) if spec.color == "bgr" else (0, 1, 2)
        mean, std = torch.tensor(spec.mean)[list(order)], torch.tensor(spec.std)[list(order)]
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(3, 1, 1, 1), persistent=False)
        self.train()

    def train(self, mode: bool = True) -> "SnippetEncoder":
        """Stay in evaluation mode; see the class."""
        super().train(False)
        for layer in quantized_layers(self).values():
            layer.training = mode  # their ranges follow the training
        return self

    def forward(self, snippets: Tensor) -> Tensor:
        """Encode snippets.

        Args:
            snippets: uint8 (N, 3, T, H, W), RGB.

        Returns:
            (N, D).
        """
        pixels = snippets.flip(1) if self.spec.color == "bgr" else snippets
        features: Tensor = self.network(pixels.to(self.scale.dtype) * self.scale + self.offset)
        return features.flatten(2).mean(dim=2) if features.dim() > 2 else features


class SnippetDetector(nn.Module):
    """An encoder of snippets and a detector of their features.

    Args:
        backbone: encoder.
        detector: detection network with `in_features` of the encoder's width.
        chunk: largest number of snippets in one pass of the encoder.

    Raises:
        ValueError: the widths differ, or chunk is below 1.
    """

    reads_pixels = True
    """Its input is snippets of videos instead of features."""

    def __init__(self, backbone: SnippetEncoder, detector: nn.Module, *, chunk: int = 16) -> None:
        super().__init__()
        width = getattr(detector, "in_features", backbone.out_features)
        if width != backbone.out_features:
            raise ValueError(f"the detector takes {width} features, the encoder makes {backbone.out_features}")
        if chunk < 1:
            raise ValueError(f"chunk={chunk} must be at least 1")
        self.backbone, self.detector, self.chunk = backbone, detector, chunk

    @property
    def num_classes(self) -> int:
        """K of the detector."""
        return int(self.detector.num_classes)  # type: ignore[arg-type]

    @property
    def class_agnostic(self) -> bool:
        """Whether the detector proposes segments without a class."""
        return bool(self.detector.class_agnostic)

    def encode(self, snippets: Tensor, mask: Tensor | None = None, *, recompute: bool = False) -> Tensor:
        """Encode all snippets of videos, `chunk` at a time; features (B, D, L), 0 where padded.

        Args:
            snippets: uint8 (B, L, 3, T, H, W).
            mask: bool (B, L), False where padded; None: nothing is padded.
            recompute: keep no activation of the encoder, and compute each chunk again in the backward pass.
        """
        batch, length = snippets.shape[:2]
        if mask is None:
            mask = torch.ones(batch, length, dtype=torch.bool, device=snippets.device)
        rows = mask.flatten().nonzero()[:, 0]
        flat, parts = snippets.flatten(0, 1), []
        for part in rows.split(self.chunk):
            clips = flat[part]
            encoded = checkpoint(self.backbone, clips, use_reentrant=False) if recompute else self.backbone(clips)
            parts.append(encoded)
        encoded = torch.cat(parts)
        features = encoded.new_zeros(batch * length, encoded.shape[1]).index_copy(0, rows, encoded)
        return features.view(batch, length, -1).transpose(1, 2)

    def forward(self, snippets: Tensor, mask: Tensor | None = None, **inputs: Any) -> DetectionOutput:
        """Detect actions.

        Args:
            snippets: uint8 (B, L, 3, T, H, W).
            mask: bool (B, L), False where padded; None: nothing is padded.
            **inputs: further inputs of the detector, see `DetectionLoss.model_inputs`.
        """
        output: DetectionOutput = self.detector(self.encode(snippets, mask), mask, **inputs)
        return output
