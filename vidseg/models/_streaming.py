"""What streaming models share: their state, their output, their contract.

A streaming model sees a video window by window and keeps what it remembers outside of itself:

    output, state = model(clips, state, mask)

so that it can serve any number of streams, in any batch, and be resumed on another machine.
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
    """What a streaming model says about one window of B videos.

    Attributes:
        backbone_logits: (B, K, T) frame-wise logits of the backbone alone, for models that train them.
        neck_logits: (B, K, T) frame-wise logits of the memory, for models that have them.
    """

    backbone_logits: Tensor | None = None
    neck_logits: Tensor | None = None


torch.export.register_dataclass(StreamOutput)


def _stored(values: dict[str, Any]) -> StreamState:
    """A state of these values as they are: a tree may hold other things than tensors."""
    state = StreamState({})
    state._values = values
    return state


class StreamState(Mapping[str, Tensor]):
    """What a model remembers of B videos between windows: named tensors, row b of each belongs to video b.

    All zeros mean that nothing has been seen: a stream's start. States are never changed in place.
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
        """B; 0 for a model that remembers nothing."""
        return len(next(iter(self.values()))) if self._values else 0

    def detach(self) -> StreamState:
        """The same values without history: gradients end here."""
        return StreamState({name: value.detach() for name, value in self.items()})

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> StreamState:
        """On another device."""
        return StreamState({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})

    def take(self, rows: Sequence[int] | Tensor) -> StreamState:
        """The memory of some of the videos, in the order given."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return StreamState({name: value[index.to(value.device)] for name, value in self.items()})

    def clear(self, rows: Sequence[int] | Tensor) -> StreamState:
        """Forget some of the videos, so that others can start in their places."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        cleared = {}
        for name, value in self.items():
            copy = value.clone()
            copy[index.to(value.device)] = 0
            cleared[name] = copy
        return StreamState(cleared)

    def state_dict(self) -> dict[str, Tensor]:
        """Plain tensors on the CPU, for `torch.save`; `StreamState(state_dict)` restores them."""
        return {name: value.detach().cpu().clone() for name, value in self.items()}


register_pytree_node(
    StreamState,
    lambda state: (list(state.values()), list(state)),
    lambda values, names: _stored(dict(zip(names, values, strict=True))),
    serialized_type_name="vidseg.models.StreamState",
    flatten_with_keys_fn=lambda state: ([(MappingKey(name), value) for name, value in state.items()], list(state)),
)


class StreamModel(nn.Module):
    """Base of the streaming models; the contract is `forward`'s."""

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """One window of each of B videos.

        Args:
            clips: (B, C, T, H, W), normalized.
            state: what the call for the previous window returned; None at the start of all videos.
            mask: (B, T), 1 or True where a frame is real, 0 where it pads; None: all are real.

        Returns:
            Logits (S, B, K, T), last stage last, 0 where the mask is 0; and the state for the next window, which
            carries no gradient.
        """
        raise NotImplementedError

    def observe(self, state: StreamState, labels: Tensor) -> StreamState:
        """Tell the model the truth of the window it has just seen, in training (teacher forcing).

        Args:
            state: returned for that window.
            labels: (B, T * R) int64 class numbers at full frame rate, -100 where there is none.

        Returns:
            The state to go on with; most models do not look at labels and return it as it is.
        """
        return state


def frame_mask(mask: Tensor | None, clips: Tensor) -> Tensor:
    """The mask (B, T) in the type of `clips`, all ones where there is none.

    Raises:
        ValueError: clips are not (B, C, T, ...), or the mask is not (B, T).
    """
    batch, frames = clips.shape[0], clips.shape[2]
    if mask is None:
        return clips.new_ones(batch, frames)
    if mask.shape != (batch, frames):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for {batch} windows of {frames} frames")
    return mask.to(clips.dtype)


def memory(state: StreamState | None, name: str, like: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor `name` of a state in the type of `like`, or zeros (B, *shape) at the start of a stream.

    Raises:
        ValueError: the state is of another number of videos or of another model.
    """
    expected = (like.shape[0], *shape)
    if state is None:
        return like.new_zeros(expected)
    if name not in state or state[name].shape != expected:
        found = tuple(state[name].shape) if name in state else "missing"
        raise ValueError(
            f"state {name!r} is {found}, expected {expected}: it is another model's, or of another number of videos "
            "(start with None, or use take() and clear())"
        )
    value = state[name]
    return value.to(like.dtype) if value.is_floating_point() else value
