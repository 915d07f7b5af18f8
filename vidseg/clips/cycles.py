"""When a run has multigrid's cycles: in all epochs, or in the first ones, with clips of the full shape at the end.

The schedule of Wu et al. (CVPR 2020) ends so as well: a network that has learned from small clips gets used to those
that it is tested on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vidseg.clips import BatchShape
from vidseg.clips.arguments import whole
from vidseg.clips.multigrid import Multigrid

__all__ = ["CyclesFirst"]


@dataclass(frozen=True)
class CyclesFirst:
    """Shapes and rates of the batches of each epoch, as `Multigrid` has them.

    Args:
        cycles: of the first epochs.
        epochs: how many epochs have cycles; later ones have batches of `cycles.base`, at the rate of the last phase.
    """

    cycles: Multigrid
    epochs: int

    def __post_init__(self) -> None:
        whole(self.epochs, "epochs", least=0)

    @property
    def base(self) -> BatchShape:
        """Shape of the largest clips."""
        return self.cycles.base

    def shapes(self, epoch: int) -> tuple[BatchShape, ...]:
        """Shapes of the batches of an epoch, in order."""
        return self._of(epoch).shapes(epoch)

    def lr_factor(self, epoch: int, index: int) -> float:
        """What the learning rate is multiplied by for batch `index` of an epoch.

        Raises:
            IndexError: there is no such batch.
        """
        factor = self._of(epoch).lr_factor(epoch, index)
        if epoch < self.epochs:
            return factor
        return self.cycles.lr_factor(0, len(self.cycles.phases) - 1)

    def _of(self, epoch: int) -> Multigrid:
        if whole(epoch, "epoch") < self.epochs:
            return self.cycles
        return replace(self.cycles, long_cycles=False, short_cycles=False)
