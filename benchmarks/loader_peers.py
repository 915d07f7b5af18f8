"""Other loaders of the loader benchmark: each fills the batches of the same plans in its usual way.

A peer is a function from a `Job` to an iterator over its batches, float32 (B, 3, T, H, W) in RGB, normalized with the
constants of the job. All peers use the same frames, crops, sizes and mirroring, except those that read shards (see
loader_shards.py). Their resampling differs (bilinear filters of OpenCV and FFmpeg do not average when shrinking); the
benchmark prints the distance of the pixels from an exact reference.

Peers that decode in Python run in the worker processes of a torch DataLoader, one per core, with one thread each; rows
named "threads" run the same code in as many threads of one process. `MissingError` reports a peer that is not
installed. To install all of them without replacing torch:

    pip install --no-deps opencv-python-headless decord torchcodec==0.13.0 spdl spdl_core spdl_io
    pip install --no-deps simplejpeg webdataset braceexpand
    pip install nvidia-dali-cuda120 "vidseg[imgaug]" && pip install --no-deps imgaug==0.4.0
    pip install mosaicml-streaming litdata      # these require torchvision, and thus a matching torch

FFCV is not a row: version 1.0.2 needs OpenCV's C++ headers to build, and its records are single images with a crop
each, not clips.
"""

from loader_augmented import AUGMENTED_PEERS
from loader_job import Peer
from loader_jpegs import JPEG_PEERS
from loader_shards import SHARD_PEERS
from loader_videos import VIDEO_PEERS

__all__ = ["PEERS"]

PEERS: dict[str, Peer] = {**JPEG_PEERS, **VIDEO_PEERS, **SHARD_PEERS, **AUGMENTED_PEERS}
