"""A small streaming network, for tests in which a registered one would take longer to export."""

import contextlib

from torch import nn

from vidseg.models import InputSpec, _registry, register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory

SPEC = InputSpec(frames=4, interval=2, size=32, mean=(0.5,) * 3, std=(0.3,) * 3)


class TinyStream(StreamModel):
    """Labels a frame by its mean features and a running mean of those of all frames before."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 6, (1, 4, 4), stride=(1, 4, 4))
        self.now, self.past = nn.Linear(6, num_classes), nn.Linear(6, num_classes)

    def forward(self, clips, state=None, mask=None):
        mask = frame_mask(mask, clips)[:, None]
        seen = self.stem(clips).relu().mean(dim=(3, 4)) * mask
        past = memory(state, "layer0.past", clips, (6,))
        logits = (self.now(seen.transpose(1, 2)) + self.past(past)[:, None]).transpose(1, 2) * mask
        following = 0.5 * past + seen.sum(dim=2) / mask.sum(dim=2)
        return StreamOutput(logits[None], neck_logits=logits), StreamState({"layer0.past": following.detach()})


@contextlib.contextmanager
def registered_tiny_stream():
    register_model("tiny_stream", TinyStream, task="streaming", input_spec=SPEC)
    try:
        yield
    finally:
        _registry._ENTRIES.pop("tiny_stream")
