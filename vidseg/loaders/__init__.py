"""Loaders: batches of clips, features, streams and picture pairs for training and evaluation."""

from vidseg.loaders.adapters import ClipFunction, ImgaugTransform
from vidseg.loaders.batch import ClipBatch
from vidseg.loaders.clip_dataset import ClipDataset, ClipItem
from vidseg.loaders.clip_loader import ClipLoader
from vidseg.loaders.detection_loader import DetectionBatch, DetectionLoader
from vidseg.loaders.feature_loader import ChunkPooling, FeatureBatch, FeatureLoader
from vidseg.loaders.flow_augmentation import FlowAugmentation
from vidseg.loaders.flow_loader import FlowBatch, FlowLoader
from vidseg.loaders.loader_stats import LoaderStats
from vidseg.loaders.moving_shapes import MovingShapes
from vidseg.loaders.output import MEAN, STD, OutputForm
from vidseg.loaders.protocols import Batch, Loader
from vidseg.loaders.snippet_frames import SnippetFrames
from vidseg.loaders.stream_loader import StreamBatch, StreamLoader

__all__ = [
    "MEAN",
    "STD",
    "Batch",
    "ChunkPooling",
    "ClipBatch",
    "ClipDataset",
    "ClipFunction",
    "ClipItem",
    "ClipLoader",
    "DetectionBatch",
    "DetectionLoader",
    "FeatureBatch",
    "FeatureLoader",
    "FlowAugmentation",
    "FlowBatch",
    "FlowLoader",
    "ImgaugTransform",
    "Loader",
    "LoaderStats",
    "MovingShapes",
    "OutputForm",
    "SnippetFrames",
    "StreamBatch",
    "StreamLoader",
]
