"""Plans of clips and batches: which frames, which geometry and color, which shape. Pure functions, no pixels."""

from vidseg.clips.crops import CenterCrop, FiveCrop, MultiScaleCrop, RandomCrop, RandomResizedCrop, ThreeCrop
from vidseg.clips.geometry import Geometry, Mirror, Perspective, RandomShortSide, ResizeExact, ResizeShort, Rotation
from vidseg.clips.multigrid import Multigrid
from vidseg.clips.plan import BatchPlan, BatchShape, ClipPlan, ColorOperation, ColorPlan
from vidseg.clips.planner import ClipPlanner
from vidseg.clips.sampling import CenterClip, DenseClips, DenseFrames, RandomStart, SegmentSampling, SequentialClips

__all__ = [
    "BatchPlan",
    "BatchShape",
    "CenterClip",
    "CenterCrop",
    "ClipPlan",
    "ClipPlanner",
    "ColorOperation",
    "ColorPlan",
    "DenseClips",
    "DenseFrames",
    "FiveCrop",
    "Geometry",
    "Mirror",
    "MultiScaleCrop",
    "Multigrid",
    "Perspective",
    "RandomCrop",
    "RandomResizedCrop",
    "RandomShortSide",
    "RandomStart",
    "ResizeExact",
    "ResizeShort",
    "Rotation",
    "SegmentSampling",
    "SequentialClips",
    "ThreeCrop",
]
