"""Two-stream network: one network of frames and one of motion, fused by their features.

"Two-Stream Convolutional Networks for Action Recognition in Videos", NeurIPS 2014, arXiv 1406.2199, and "Quo Vadis,
Action Recognition?", CVPR 2017, arXiv 1705.07750, average the scores of two networks that are trained separately
(`vidseg score` does it for runs). Here both are trained together, with one classifier on their concatenated features.

Shapes: B videos, C channels, T frames, H, W, K classes, D features.
"""

from torch import Tensor, cat, nn

from vidseg.models._classifier import classifier_name
from vidseg.models._input_spec import HALF, InputSpec
from vidseg.models._registry import create_model, model_options, model_task, register_model

__all__ = ["TwoStream"]


def _stream(name: str, channels: int, num_classes: int, width: float) -> tuple[nn.Module, int]:
    """Return a network without its classifier, and the number of its features."""
    if name == "two_stream" or model_task(name) != "recognition":
        raise ValueError(f"{name!r} is not a network for recognition with a classifier")
    known = model_options(name)
    given = {"in_channels": channels, "width": width, "dropout": 0.0}
    model = create_model(name, num_classes=num_classes, **{key: given[key] for key in given if key in known})
    last = classifier_name(model)
    if last is None:
        raise ValueError(f"{name} has no linear classifier, so its features are not defined")
    size = model.state_dict()[f"{last}.weight"].shape[1]
    model.set_submodule(last, nn.Identity())
    return model, size


class TwoStream(nn.Module):
    """Network of frames and network of motion with one classifier.

    Args:
        num_classes: K.
        frames_network: registered network of the frames.
        motion_network: registered network of the motion.
        dropout: dropout probability before the classifier.
        width: multiplier of all widths of both networks.
        in_channels: channels of the clips, those of the motion included.
        motion_channels: channels of the motion, the last ones.

    Raises:
        ValueError: one of the networks is not for recognition, or no channel is left for the frames.
    """

    classifier_name = "classifier"
    head_modules = ("classifier",)

    def __init__(
        self,
        *,
        num_classes: int,
        frames_network: str = "i3d_rgb",
        motion_network: str = "i3d_flow",
        dropout: float = 0.5,
        width: float = 1.0,
        in_channels: int = 5,
        motion_channels: int = 2,
    ):
        super().__init__()
        if not 0 < motion_channels < in_channels:
            raise ValueError(f"motion_channels={motion_channels} must be above 0 and below in_channels={in_channels}")
        self.num_classes, self.split = num_classes, [in_channels - motion_channels, motion_channels]
        self.frames, size = _stream(frames_network, self.split[0], num_classes, width)
        self.motion, more = _stream(motion_network, motion_channels, num_classes, width)
        self.num_features = size + more
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the features (B, D) of both networks, those of the frames first.

        Args:
            clips: (B, C, T, H, W), normalized.
        """
        frames, motion = clips.split(self.split, dim=1)
        return cat([self.frames(frames), self.motion(motion)], dim=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.classifier(self.dropout(self.forward_features(clips)))


register_model(
    "two_stream",
    TwoStream,
    input_spec=InputSpec(frames=16, interval=2, size=224, resize=256, mean=HALF, std=HALF, modality="rgb+flow"),
)
