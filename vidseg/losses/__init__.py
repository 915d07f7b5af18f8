"""Training losses, one for each family of networks, selected by network name."""

from vidseg.losses._registry import create_loss, list_losses, register_loss
from vidseg.losses.detection import DetectionLoss, DetectionTargets
from vidseg.losses.flow_losses import PyramidLoss, SequenceLoss, create_flow_loss
from vidseg.losses.points import ActionFormerLoss, TriDetLoss
from vidseg.losses.proposals import BmnLoss, EtadLoss
from vidseg.losses.staged import AsrfLoss, C2fLoss, DiffActLoss, SegmentationLoss, StagedLoss
from vidseg.losses.streaming import create_stream_loss

__all__ = [
    "DetectionLoss",
    "DetectionTargets",
    "PyramidLoss",
    "SegmentationLoss",
    "SequenceLoss",
    "StagedLoss",
    "create_flow_loss",
    "create_loss",
    "create_stream_loss",
    "list_losses",
    "register_loss",
]

for _name in ("mstcn", "mstcn2", "asformer", "ltcontext"):
    register_loss(_name, StagedLoss)
register_loss("asrf", AsrfLoss)
register_loss("c2f_tcn", C2fLoss)
register_loss("diffact", DiffActLoss)
register_loss("etad", EtadLoss)
register_loss("bmn", BmnLoss)
register_loss("actionformer", ActionFormerLoss)
register_loss("tridet", TriDetLoss)
