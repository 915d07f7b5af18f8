"""From videos to batches."""

from vidseg.loaders.plain import Batch, PlainLoader

__all__ = ["Batch", "PlainLoader"]
