"""A loader of picture pairs with true flow, for training and evaluation of optical-flow networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vidseg.labels.flow_pairs import FlowPair, FlowSource
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.flow_augmentation import FlowAugmentation
from vidseg.loaders.sample_order import SampleLoader
from vidseg.loaders.threads import default_threads

__all__ = ["FlowBatch", "FlowLoader"]


@dataclass(frozen=True, repr=False, eq=False)
class FlowBatch(FieldAccess):
    """Pairs of pictures and the flow from the first to the second.

    `first, second, flow, known = batch` unpacks it.

    Attributes:
        first: uint8 (B, 3, H, W), RGB.
        second: uint8 (B, 3, H, W), RGB.
        flow: float32 (B, 2, H, W), x and y in pixels; zero where it is not known.
        known: bool (B, H, W), where the flow is known; nowhere in a pair that pads the batch of a rank.
        numbers: int64 (B,), number of each pair in its source.
        valid: bool (B,), False for a pair that pads the batch of a rank.
    """

    UNPACKED: ClassVar[tuple[str, ...]] = ("first", "second", "flow", "known")
    ON_HOST: ClassVar[tuple[str, ...]] = ("numbers", "valid")

    first: Tensor
    second: Tensor
    flow: Tensor
    known: Tensor
    numbers: Tensor
    valid: Tensor

    @property
    def inputs(self) -> Tensor:
        """The first pictures."""
        return self.first

    def __len__(self) -> int:
        return len(self.first)

    def __repr__(self) -> str:
        return f"FlowBatch(first {tuple(self.first.shape)}, flow {tuple(self.flow.shape)})"


@dataclass(frozen=True)
class _Loaded:
    pair: FlowPair
    valid: bool


class FlowLoader(SampleLoader[_Loaded, FlowBatch]):
    """Batches of picture pairs with true flow.

    For training, pairs are shuffled and an incomplete last batch is dropped, unless it is the only one. A generated
    source has new pairs in each epoch of training, and the same ones in each evaluation.

    Args:
        source: the pairs: `vidseg.loaders.MovingShapes` or `vidseg.labels.FlowFolder`.
        batch_size: B over all ranks, a multiple of `world_size`.
        train: shuffle, augment, drop incomplete batches.
        augmentation: random changes of training pairs, which also give them one size; None: none, then all pairs of a
            batch need the same size.
        seed: seed for order and augmentation.
        rank: index of this process.
        world_size: number of processes, which divide each batch.
        threads: number of loading threads. None: up to 4, one for each available core.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy batches to this device, one batch ahead of their use. None leaves them in host memory.

    Raises:
        ValueError: an argument is out of range, or there are fewer pairs than processes.
    """

    def __init__(
        self,
        source: FlowSource,
        *,
        batch_size: int = 8,
        train: bool = True,
        augmentation: FlowAugmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        pin: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            train=train,
            seed=seed,
            rank=rank,
            world_size=world_size,
            threads=min(4, default_threads()) if threads is None else threads,
            pin=pin,
            device=device,
        )
        if train and len(source) < world_size:
            raise ValueError(f"{source}: {len(source)} pairs for {world_size} processes; take fewer processes")
        self.source, self.augmentation = source, augmentation if train else None

    @property
    def sample_count(self) -> int:
        """See `SampleLoader`."""
        return len(self.source)

    def load_sample(self, number: int, epoch: int, valid: bool) -> _Loaded:
        """See `SampleLoader`."""
        epoch = epoch if self.train else 0
        pair = self.source.pair(number, epoch)
        if self.augmentation is not None:
            pair = self.augmentation(pair, seed=self.seed, epoch=epoch, number=number)
        return _Loaded(pair, valid)

    def make_batch(self, numbers: list[int], loaded: list[_Loaded]) -> FlowBatch:
        """See `SampleLoader`.

        Raises:
            ValueError: pairs of different sizes in one batch.
        """
        sizes = {one.pair.known.shape: number for number, one in zip(numbers, loaded, strict=True)}
        if len(sizes) > 1:
            (first, one), (second, other) = list(sizes.items())[:2]
            raise ValueError(
                f"{self.source.video_path(one)} has {first[1]} x {first[0]} pixels, {self.source.video_path(other)} "
                f"{second[1]} x {second[0]}; pairs of one batch need one size: use batch_size=1 or a crop"
            )

        def stacked(parts: list[np.ndarray]) -> Tensor:
            values = torch.from_numpy(np.stack(parts))
            return values.pin_memory() if self.pin else values

        pairs = [one.pair for one in loaded]
        return FlowBatch(
            first=stacked([pair.first.transpose(2, 0, 1) for pair in pairs]),
            second=stacked([pair.second.transpose(2, 0, 1) for pair in pairs]),
            flow=stacked([pair.flow for pair in pairs]),
            known=stacked([pair.known & one.valid for pair, one in zip(pairs, loaded, strict=True)]),
            numbers=torch.tensor(numbers),
            valid=torch.tensor([one.valid for one in loaded]),
        )
