"""Parameters and multiply-adds of the registered networks at their own input, for tables.

Counting all networks takes minutes, so the counts are stored: `python benchmarks/model_counts.py --write` writes this
file. A network that is not in it is counted when it is asked for; tests count some of the stored ones again.
"""

from vidseg.models._profile import count_cost, input_shape
from vidseg.models._registry import has_classes, input_spec, model_task

__all__ = ["COUNTS", "cost_of", "count_network"]

_CLASSES = 400

# network: (parameters, millions of multiply-adds of one sample), 400 classes
COUNTS: dict[str, tuple[int, int]] = {
    "actionformer": (29835672, 2693),
    "asformer": (1306688, 1829),
    "asrf": (1468612, 1458),
    "block_recurrent": (10640080, 11842),
    "bmn": (5294980, 6541),
    "c2d_r50": (24327632, 19493),
    "c2f_tcn": (7042023, 4217),
    "diffact": (1248784, 4055),
    "etad": (10638362, 70899),
    "etesvs": (16540144, 10042),
    "etesvs_convlstm": (3963456, 10902),
    "fastflownet": (1366114, 1816),
    "i3d_flow": (12675312, 102341),
    "i3d_r50": (28043472, 28408),
    "i3d_rgb": (12697264, 111153),
    "ig65m_r2plus1d_34": (63697175, 76178),
    "liteflownet3": (7524204, 12370),
    "ltcontext": (763488, 1120),
    "memory_tcn": (2398416, 9589),
    "mobilenet_v2_tsm_frames": (2736272, 9600),
    "mstcn": (972608, 966),
    "mstcn2": (1170048, 1162),
    "mtnet_l": (88132752, 9627),
    "mtnet_l_g8": (24883258, 1680),
    "mtnet_m": (44038288, 6411),
    "mtnet_m_g8": (13274842, 1580),
    "mtnet_s": (39981968, 4719),
    "mtnet_s_g8": (12204988, 1535),
    "mtnet_xl": (124450960, 13589),
    "mtnet_xl_g8": (34447354, 1797),
    "mtnet_xs": (21835664, 4026),
    "mtnet_xs_g8": (7433500, 1512),
    "mtnet_xxl": (134846608, 19605),
    "mtnet_xxl_g8": (37195642, 1955),
    "r2plus1d_18": (31505325, 5831),
    "r2plus1d_34": (61831661, 10219),
    "r2plus1d_50": (34863287, 6303),
    "r2plus1d_101": (67218231, 9470),
    "r2plus1d_152": (93866167, 13381),
    "r2plus1d_200": (101489847, 19341),
    "r2plus1dxt50_32x4d": (133092993, 21948),
    "r2plus1dxt101_32x8d": (1013214977, 131887),
    "r3d_18": (33371472, 6420),
    "r3d_34": (63681104, 10808),
    "r3d_50": (36724688, 6702),
    "r3d_101": (69060048, 9868),
    "r3d_152": (95690704, 13780),
    "r3d_200": (103305168, 19740),
    "r3dxt50_32x4d": (140937936, 21673),
    "r3dxt101_32x8d": (1043362512, 128745),
    "raft_basic": (5257536, 59410),
    "raft_small": (990162, 15503),
    "slow_r50_4x16": (32454096, 20871),
    "slow_r50_8x8": (32454096, 41741),
    "slowfast_r50_4x16": (34480216, 27639),
    "slowfast_r50_8x8": (34566488, 50309),
    "slowfast_r101_8x8": (62826968, 96397),
    "slowfast_r101_16x8": (53774808, 163095),
    "srtg_r2plus1d_18": (42677165, 5847),
    "srtg_r2plus1d_34": (82011629, 10250),
    "srtg_r2plus1d_50": (55043255, 6334),
    "srtg_r2plus1d_101": (105293623, 9536),
    "srtg_r2plus1d_152": (146683063, 13479),
    "srtg_r2plus1d_200": (158533815, 19456),
    "srtg_r2plus1dxt50_32x4d": (153272961, 21979),
    "srtg_r2plus1dxt101_32x8d": (1051290369, 131954),
    "srtg_r3d_18": (44543312, 6436),
    "srtg_r3d_34": (83861072, 10839),
    "srtg_r3d_50": (56904656, 6733),
    "srtg_r3d_101": (107135440, 9935),
    "srtg_r3d_152": (148507600, 13878),
    "srtg_r3d_200": (160349136, 19855),
    "srtg_r3dxt50_32x4d": (161117904, 21704),
    "srtg_r3dxt101_32x8d": (1081437904, 128811),
    "srtg_wide_r2plus1d50_2": (153678573, 22061),
    "srtg_wide_r2plus1d101_2": (296437229, 34325),
    "srtg_wide_r3d50_2": (161117904, 21704),
    "srtg_wide_r3d101_2": (303837392, 33968),
    "svtas_rl": (95920024, 283465),
    "timesformer_base": (121566352, 188432),
    "torchvision_mc3_18": (11695440, 43343),
    "torchvision_r2plus1d_18": (31505325, 40519),
    "torchvision_r3d_18": (33371472, 40697),
    "transeger": (40088464, 25001),
    "tridet": (17741784, 2917),
    "tsm_mobilenet_v2": (2736272, 2400),
    "tsm_r18": (11381712, 14510),
    "tsm_r34": (21489872, 29308),
    "tsm_r50": (24327632, 32704),
    "tsm_r101": (43319760, 62401),
    "tsm_r152": (58963408, 92099),
    "tsn_mobilenet_v2": (2736272, 899),
    "tsn_r18": (11381712, 5441),
    "tsn_r34": (21489872, 10990),
    "tsn_r50": (24327632, 12262),
    "tsn_r101": (43319760, 23399),
    "tsn_r152": (58963408, 34536),
    "two_stream": (25372176, 53373),
    "videomae_base": (86534800, 180345),
    "videomae_large": (304270736, 596833),
    "videomae_small": (22033936, 56878),
    "vjepa2_giant": (1105986576, 61169330),
    "vjepa2_huge": (709231760, 11693085),
    "vjepa2_large": (353631632, 935243),
    "wide_r2plus1d50_2": (133498605, 22030),
    "wide_r2plus1d101_2": (258361837, 34259),
    "wide_r3d50_2": (140937936, 21673),
    "wide_r3d101_2": (265762000, 33901),
    "x3d_l": (6153384, 18368),
    "x3d_m": (3794274, 4732),
    "x3d_s": (3794274, 1963),
    "x3d_xs": (3794274, 605),
}


def cost_of(name: str, *, num_classes: int = _CLASSES) -> tuple[int, int]:
    """Return parameters and millions of multiply-adds of the network called `name`, from the table if it has them.

    Args:
        name: registered name.
        num_classes: K; others than 400 are counted. No effect on networks without classes.

    Raises:
        ValueError: no network is registered under this name.
    """
    if name in COUNTS and (num_classes == _CLASSES or not has_classes(name)):
        return COUNTS[name]
    return count_network(name, num_classes=num_classes)


def count_network(name: str, *, num_classes: int = _CLASSES) -> tuple[int, int]:
    """Count parameters and millions of multiply-adds of one sample at the input spec of the network.

    Networks for features are counted on 2048 features and 1000 columns (detection: 128), streaming networks on 32
    frames of 224x224, optical-flow networks on one pair of pictures.

    Args:
        name: registered name.
        num_classes: K; no effect on networks without classes.
    """
    spec, task = input_spec(name), model_task(name)
    shape = input_shape(name, size=input_spec(name).size if task == "flow" else 224)
    if spec.modality != "features" and task not in ("streaming", "flow"):
        shape = (1, shape[1], spec.frames, spec.size, spec.size)
    options = {"in_features": 2048} if task in ("segmentation", "detection") else {}
    cost = count_cost(name, shape, num_classes=num_classes, **options)
    return cost.parameters, round(cost.macs / 1e6)
