"""Errors of optical flow: end-point error, shares of pixels within a distance, outliers as KITTI counts them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlowScores", "flow_error_sums", "flow_scores"]

_DISTANCES = (1.0, 3.0, 5.0)
_OUTLIER_PIXELS, _OUTLIER_SHARE = 3.0, 0.05


@dataclass(frozen=True)
class FlowScores:
    """Scores over the pixels whose flow is known.

    Attributes:
        epe: mean end-point error in pixels.
        within: shares of pixels with an error below 1, 3 and 5 pixels.
        f1_all: share of outliers of KITTI 2015: an error above 3 pixels and above 5 % of the length of the true flow.
        pixels: number of these pixels.
    """

    epe: float
    within: tuple[float, float, float]
    f1_all: float
    pixels: int

    @classmethod
    def from_sums(cls, sums: Tensor) -> FlowScores:
        """Return the scores of added `flow_error_sums`.

        Raises:
            ValueError: there is no pixel with known flow.
        """
        epe, one, three, five, outliers, pixels = sums.double().tolist()
        if not pixels:
            raise ValueError("no pixel has a known flow, so there is no error to report")
        shares = (one / pixels, three / pixels, five / pixels)
        return cls(epe / pixels, shares, outliers / pixels, int(pixels))

    def as_dict(self) -> dict[str, float]:
        """Return the scores by name."""
        names = ("within_1px", "within_3px", "within_5px")
        return {"epe": self.epe, **dict(zip(names, self.within, strict=True)), "f1_all": self.f1_all}

    def __str__(self) -> str:
        one, three, five = self.within
        return (
            f"EPE {self.epe:.3f} px, within 1 px {one:.1%}, 3 px {three:.1%}, 5 px {five:.1%}, F1-all {self.f1_all:.1%}"
        )


def flow_error_sums(flow: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Return sums over pixels from which `FlowScores.from_sums` computes scores; sums of several batches add up.

    Args:
        flow: predicted flow (B, 2, H, W) or (2, H, W), in pixels.
        target: true flow, like `flow`.
        known: bool (B, H, W) or (H, W), where it is known; None: everywhere.

    Returns:
        float64 (6,): end-point errors; pixels below 1, 3 and 5 pixels of error; outliers; pixels.

    Raises:
        ValueError: the shapes differ.
    """
    if flow.shape != target.shape or flow.shape[-3] != 2:
        raise ValueError(f"flows of shape {tuple(flow.shape)} and {tuple(target.shape)}; expected (..., 2, H, W)")
    errors = (flow.float() - target.float()).norm(dim=-3)
    length = target.float().norm(dim=-3)
    outliers = (errors > _OUTLIER_PIXELS) & (errors > _OUTLIER_SHARE * length)
    counted = torch.ones_like(outliers) if known is None else known
    rows = [torch.where(counted, errors, 0).double().sum()]
    rows += [((errors < distance) & counted).sum().double() for distance in _DISTANCES]
    return torch.stack([*rows, (outliers & counted).sum().double(), counted.sum().double()])


def flow_scores(flow: Tensor, target: Tensor, known: Tensor | None = None) -> FlowScores:
    """Return the scores of predicted flow; see `flow_error_sums` for the arguments.

    Sources: "A Database and Evaluation Methodology for Optical Flow" (Baker et al., IJCV 2011) for the end-point error;
    "Object Scene Flow for Autonomous Vehicles" (Menze and Geiger, CVPR 2015) for the outliers.
    """
    return FlowScores.from_sums(flow_error_sums(flow, target, known))
