"""Plans of clips and batches: which frames, which geometry and colour, which shape. Pure functions, no pixels."""

from vidseg.clips.crops import CentreCrop, FiveCrop, MultiScaleCrop, RandomCrop, RandomResizedCrop, ThreeCrop
from vidseg.clips.geometry import Geometry, Mirror, Perspective, RandomShortSide, ResizeExact, ResizeShort, Rotation
from vidseg.clips.multigrid import Multigrid
from vidseg.clips.plan import BatchPlan, BatchShape, ClipPlan, ColourOperation, ColourPlan
from vidseg.clips.planner import ClipPlanner
from vidseg.clips.sampling import CentreClip, DenseClips, DenseFrames, RandomStart, SegmentSampling, SequentialClips

__all__ = [
    "BatchPlan",
    "BatchShape",
    "CentreClip",
    "CentreCrop",
    "ClipPlan",
    "ClipPlanner",
    "ColourOperation",
    "ColourPlan",
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
