"""From videos to batches."""

from vidseg.loaders.features import ChunkPooling, FeatureBatch, FeatureLoader
from vidseg.loaders.plain import Batch, PlainLoader

__all__ = ["Batch", "ChunkPooling", "FeatureBatch", "FeatureLoader", "PlainLoader"]
