"""A recognition network as one that labels the windows of a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidseg.models._streaming import StreamModel, StreamOutput, StreamState

__all__ = ["SlidingWindow"]


class SlidingWindow(StreamModel):
    """Gives all frames of a window the class scores of its clip; keeps no memory.

    Args:
        model: clips (B, 3, T, H, W) -> logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Label a window.

        Args:
            clips: (B, 3, T, H, W).
            state: ignored.
            mask: bool (B, T), False behind the end of a video, where the last real frame is repeated.

        Returns:
            Logits (1, B, K, T), equal for all T, and an empty state.
        """
        if mask is not None and not bool(mask.all()):
            last = (mask.sum(dim=1) - 1).clamp(min=0)
            places = torch.minimum(torch.arange(clips.shape[2], device=clips.device), last[:, None])
            clips = torch.stack([clip[:, place] for clip, place in zip(clips, places, strict=True)])
        logits = self.model(clips)
        return StreamOutput(logits[None, :, :, None].expand(-1, -1, -1, clips.shape[2])), StreamState({})
