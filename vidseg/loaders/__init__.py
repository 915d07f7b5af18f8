"""From videos to batches."""

from vidseg.loaders.adapters import ClipFunction, ImgaugTransform
from vidseg.loaders.batch import ClipBatch
from vidseg.loaders.clip_loader import ClipLoader
from vidseg.loaders.features import ChunkPooling, FeatureBatch, FeatureLoader
from vidseg.loaders.output import MEAN, STD, OutputForm
from vidseg.loaders.stats import LoaderStats

__all__ = [
    "MEAN",
    "STD",
    "ChunkPooling",
    "ClipBatch",
    "ClipFunction",
    "ClipLoader",
    "FeatureBatch",
    "FeatureLoader",
    "ImgaugTransform",
    "LoaderStats",
    "OutputForm",
]
