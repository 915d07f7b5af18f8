"""Plans of clips and batches: which frames, which geometry and colour, which shape. Pure functions, no pixels."""

from vidseg.clips.plan import BatchPlan, BatchShape, ClipPlan, ColourOperation, ColourPlan

__all__ = ["BatchPlan", "BatchShape", "ClipPlan", "ColourOperation", "ColourPlan"]
