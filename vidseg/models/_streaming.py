"""Base class, output class and state of the streaming networks.

A streaming network processes a video window by window. Its memory is an argument and a result of the call, not an
attribute of the network:

    output, state = model(clips, state, mask)

One network can therefore process any number of streams in any batch, and a stream can continue on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import MappingKey, register_pytree_node

from vidseg.models._segmentation import SegmentationOutput

__all__ = ["StreamModel", "StreamOutput", "StreamState", "frame_mask", "memory"]


@dataclass
class StreamOutput(SegmentationOutput):
    """Output of a streaming network for one window of B videos.

    Attributes:
        backbone_logits: (B, K, T), frame-wise logits of the backbone; None if the network has none.
        neck_logits: (B, K, T), frame-wise logits of the recurrent memory; None if the network has none.
    """

    backbone_logits: Tensor | None = None
    neck_logits: Tensor | None = None


torch.export.register_dataclass(StreamOutput)


def _stored(values: dict[str, Any]) -> StreamState:
    """Return a state without checks: pytree functions replace tensors by other objects."""
    state = StreamState({})
    state._values = values
    return state


class StreamState(Mapping[str, Tensor]):
    """Memory of a streaming network between windows of B videos: a read-only mapping of names to tensors.

    Row b of each tensor belongs to video b. Zeros are the state at the start of a stream. Methods return new states.

    Args:
        values: name -> tensor (B, ...).

    Raises:
        ValueError: the tensors have different numbers of videos.
    """

    def __init__(self, values: Mapping[str, Tensor]):
        sizes = {name: value.shape[0] for name, value in values.items()}
        if any(size != first for size in sizes.values() for first in list(sizes.values())[:1]):
            raise ValueError(f"the tensors of one state have different numbers of videos: {sizes}")
        self._values = dict(values)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"StreamState({', '.join(f'{name} {tuple(value.shape)}' for name, value in self.items())})"

    @property
    def videos(self) -> int:
        """Number of videos B; 0 for an empty state."""
        return len(next(iter(self.values()))) if self._values else 0

    def detach(self) -> StreamState:
        """Return the state detached from the autograd graph."""
        return StreamState({name: value.detach() for name, value in self.items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> StreamState:
        """Return the state on `device`."""
        return StreamState({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})

    def take(self, rows: Sequence[int] | Tensor) -> StreamState:
        """Return the state of the videos `rows`, in this order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return StreamState({name: value[index.to(value.device)] for name, value in self.items()})

    def clear(self, rows: Sequence[int] | Tensor) -> StreamState:
        """Return the state with the videos `rows` reset to the start of a stream."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        cleared = {}
        for name, value in self.items():
            copy = value.clone()
            copy[index.to(value.device)] = 0
            cleared[name] = copy
        return StreamState(cleared)

    def state_dict(self) -> dict[str, Tensor]:
        """Return a dictionary of CPU tensors for `torch.save`; `StreamState(values)` restores the state."""
        return {name: value.detach().cpu().clone() for name, value in self.items()}


register_pytree_node(
    StreamState,
    lambda state: (list(state.values()), list(state)),
    lambda values, names: _stored(dict(zip(names, values, strict=True))),
    serialized_type_name="vidseg.models.StreamState",
    flatten_with_keys_fn=lambda state: ([(MappingKey(name), value) for name, value in state.items()], list(state)),
)


class StreamModel(nn.Module):
    """Base class of the streaming networks."""

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits for one window of B videos.

        Args:
            clips: (B, C, T, H, W), normalized.
            state: state returned for the previous window; None at the start of all videos.
            mask: (B, T), 1 or True on valid frames, 0 on padding; None: no frame is padding.

        Returns:
            Output with logits (S, B, K, T), the final stage last, 0 on padded frames; and the state for the next
            window, detached from the autograd graph.
        """
        raise NotImplementedError

    def observe(self, state: StreamState, labels: Tensor) -> StreamState:
        """Replace predictions in the state by the labels of the last window, for training with teacher forcing.

        Args:
            state: state returned for the window.
            labels: int64 (B, T * R), class numbers at full frame rate, -100 for frames without label.

        Returns:
            The state for the next window; the base class returns `state`, for networks that do not use labels.
        """
        return state


def frame_mask(mask: Tensor | None, clips: Tensor) -> Tensor:
    """Return the mask (B, T) in the dtype of `clips`; ones if `mask` is None.

    Args:
        mask: (B, T), or None.
        clips: (B, C, T, ...).

    Raises:
        ValueError: the mask has another shape.
    """
    batch, frames = clips.shape[0], clips.shape[2]
    if mask is None:
        return clips.new_ones(batch, frames)
    if mask.shape != (batch, frames):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {(batch, frames)}, one entry per frame")
    return mask.to(clips.dtype)


def memory(state: StreamState | None, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the tensor `name` of a state, or zeros at the start of a stream.

    Args:
        state: None at the start of all videos.
        name: name of the tensor.
        like: tensor (B, ...) whose dtype and device the result has; integers keep their dtype.
        shape: shape of the tensor without B.

    Returns:
        (B, *shape).

    Raises:
        ValueError: the state has another shape or does not contain the tensor.
    """
    expected = (like.shape[0], *shape)
    if state is None:
        return like.new_zeros(expected)
    if name not in state or state[name].shape != expected:
        found = tuple(state[name].shape) if name in state else "missing"
        raise ValueError(
            f"state {name!r} is {found}, expected {expected}: it belongs to another network or other videos; "
            "start with None, or select videos with take() and reset them with clear()"
        )
    value = state[name]
    return value.to(like.dtype) if value.is_floating_point() else value
