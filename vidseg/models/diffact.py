"""DiffAct: a diffusion model that generates the labels of a video from noise, conditioned on its features.

"Diffusion Action Segmentation", ICCV 2023, arXiv 2303.17959; sampling by DDIM, arXiv 2010.02502. The encoder computes
class scores and the condition from the features. The decoder predicts labels from noisy labels and the condition.
Parameter names are those of the published weights.

The seed of a video determines its condition mask, diffusion step and noise. Dropout uses the random state of torch.

Shapes: B videos, D feature width, K classes, L frames, S stages (encoder and decoder).
"""

import math
import operator
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._segmentation import (
    SegmentationOutput,
    clear_padding,
    find_padding,
    instance_norm,
    video_lengths,
)

__all__ = ["DiffAct", "cosine_schedule", "neighbor_attention", "video_noise"]

_TIME_CHANNELS = 512


@torch.library.custom_op("vidseg::video_noise", mutates_args=())
def video_noise(lengths: Tensor, seeds: Sequence[int], draws: int, channels: int, frames: int) -> Tensor:
    """Return the noise of `DiffAct._noise` as one tensor, for exported graphs.

    Args:
        lengths: int64 (B,), number of frames of each video.
        seeds: seed of each video, or one seed for all videos.
        draws: number of noise tensors.
        channels: K.
        frames: L.

    Returns:
        Standard normal (draws, B, channels, frames), 0 on padded frames.
    """
    each = list(seeds) * (len(lengths) if len(seeds) == 1 else 1)
    generators = DiffAct._generators(each, len(lengths))
    noise = _padded_noise(generators, lengths.tolist(), channels, frames)
    return torch.stack([next(noise) for _ in range(draws)]).to(lengths.device)


@video_noise.register_fake
def _(lengths: Tensor, seeds: Sequence[int], draws: int, channels: int, frames: int) -> Tensor:
    return torch.empty(draws, lengths.shape[0], channels, frames, device=lengths.device)


def _padded_noise(
    generators: Sequence[torch.Generator], lengths: Sequence[int], channels: int, frames: int
) -> Iterator[Tensor]:
    """Yield noise (B, channels, frames) on the CPU; that of a video depends on its generator and length only."""
    while True:
        drawn = [
            F.pad(torch.randn(channels, length, generator=draw, device="cpu"), (0, frames - length))
            for draw, length in zip(generators, lengths, strict=True)
        ]
        yield torch.stack(drawn)


def cosine_schedule(steps: int) -> list[float]:
    """Return the fraction of the signal in the variance after each step (arXiv 2102.09672, section 3.2)."""
    signal = [math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(steps + 1)]
    kept = (
        max(after / before, 0.001) for before, after in pairwise(signal)
    )  # a step removes at most 0.999 of the signal
    return list(accumulate(kept, operator.mul))


def _sampling_times(steps: int, count: int) -> list[int]:
    """Return the diffusion steps of sampling in descending order; -1 is the end."""
    times: list[int] = torch.linspace(-1, steps - 1, count + 1, device="cpu").int().tolist()
    return times[::-1]


def neighbor_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, kernel: int, dilation: int
) -> Tensor:
    """Compute the attention of each frame to `kernel` frames around it, with the pattern of a dilated convolution.

    A frame outside the video contributes exp(score) * 1e-6 to the sum of the softmax and has weight 0.

    Args:
        query: (B, C, L).
        key: (B, C, L), 0 on padded frames.
        value: (B, C, L).
        valid: (B, 1, L), 1 on valid frames and 0 on padding.
        kernel: number of frames, odd.
        dilation: distance between the frames.

    Returns:
        (B, C, L).
    """
    frames, reach = query.shape[2], dilation * (kernel // 2)

    def neighbors(x: Tensor) -> Tensor:
        """Return the frames around each frame: (B, C, L) -> (B, kernel, C, L)."""
        padded = F.pad(x, (reach, reach))
        starts = range(0, 2 * reach + 1, dilation)
        return torch.stack([padded[..., start : start + frames] for start in starts], dim=1)

    counts = neighbors(valid).squeeze(2)
    scores = (query[:, None] * neighbors(key)).sum(dim=2) / math.sqrt(query.shape[1])
    weights = (scores + (counts + 1e-6).log()).softmax(dim=1) * counts
    return (weights[:, :, None] * neighbors(value)).sum(dim=1)


class _Layer(nn.Module):
    """Residual layer: sum of dilated convolution and attention, instance normalization, two pointwise convolutions."""

    def __init__(self, maps: int, condition: int, *, kernel: int, dilation: int, dropout: float):
        super().__init__()
        reach = dilation * (kernel // 2)
        self.conv_block = nn.Sequential(nn.Conv1d(maps, maps, kernel, padding=reach, dilation=dilation))
        self.att_linear_q = nn.Conv1d(maps + condition, maps, 1)
        self.att_linear_k = nn.Conv1d(maps + condition, maps, 1)
        self.att_linear_v = nn.Conv1d(maps, maps, 1)
        self.ffn_block = nn.Sequential(nn.Conv1d(maps, maps, 1), nn.ReLU(), nn.Conv1d(maps, maps, 1))
        self.dropout = nn.Dropout(dropout)
        self.kernel = kernel
        self.dilation = dilation

    def forward(self, x: Tensor, condition: Tensor | None, padding: Tensor | None) -> Tensor:
        dropped = self.dropout(x)
        source = dropped if condition is None else torch.cat([dropped, self.dropout(condition)], dim=1)
        valid = x.new_ones(x.shape[0], 1, x.shape[2]) if padding is None else (~padding).to(x.dtype)
        attended = neighbor_attention(
            self.att_linear_q(source),
            clear_padding(self.att_linear_k(source), padding),
            clear_padding(self.att_linear_v(dropped), padding),
            valid,
            kernel=self.kernel,
            dilation=self.dilation,
        )
        mixed = instance_norm(self.conv_block(dropped) + attended, padding)
        return clear_padding(x + self.ffn_block(mixed), padding)


def _stack(layers: int, maps: int, condition: int, *, kernel: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(
        _Layer(maps, condition, kernel=kernel, dilation=2**index, dropout=dropout) for index in range(layers)
    )


class _EncoderBody(nn.Module):
    def __init__(self, layers: nn.ModuleList):
        super().__init__()
        self.layers = layers


class _Encoder(nn.Module):
    """Encoder, which computes class scores and the condition of the decoder."""

    def __init__(
        self,
        inputs: int,
        maps: int,
        outputs: int,
        *,
        layers: int,
        kernel: int,
        dropouts: tuple[float, float, float],
        condition_layers: tuple[int, ...],
    ):
        super().__init__()
        inner, self.channel_dropout, self.frame_dropout = dropouts
        self.condition_layers = condition_layers
        self.conv_in = nn.Conv1d(inputs, maps, 1)
        self.encoder = _EncoderBody(_stack(layers, maps, 0, kernel=kernel, dropout=inner))
        self.conv_out = nn.Conv1d(maps, outputs, 1)

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, L) and the condition (B, C, L)."""
        x = F.dropout1d(x, self.channel_dropout, self.training)
        x = F.dropout1d(x.transpose(1, 2), self.frame_dropout, self.training).transpose(1, 2)
        x = clear_padding(self.conv_in(x), padding)
        maps = []
        for layer in self.encoder.layers:
            x = layer(x, None, padding)
            maps.append(x)
        condition = torch.cat([maps[index] for index in self.condition_layers], dim=1)
        return clear_padding(self.conv_out(x), padding), condition


class _DecoderBody(nn.Module):
    def __init__(self, maps: int, layers: nn.ModuleList):
        super().__init__()
        self.time_proj = nn.Linear(_TIME_CHANNELS, maps)
        self.layers = layers


class _Decoder(nn.Module):
    """Decoder, which computes class scores from noisy labels, their diffusion step and the condition."""

    def __init__(self, condition: int, maps: int, classes: int, *, layers: int, kernel: int, dropout: float):
        super().__init__()
        self.time_in = nn.ModuleList(nn.Linear(_TIME_CHANNELS, _TIME_CHANNELS) for _ in range(2))
        self.conv_in = nn.Conv1d(classes, maps, 1)
        self.module = _DecoderBody(maps, _stack(layers, maps, condition, kernel=kernel, dropout=dropout))
        self.conv_out = nn.Conv1d(maps, classes, 1)

    def embed(self, steps: Tensor) -> Tensor:
        """Return the sinusoidal embedding (B, 512) of diffusion steps (B,) after two linear layers."""
        half = _TIME_CHANNELS // 2
        rates = torch.exp(torch.arange(half, device=steps.device) * (-math.log(10000) / (half - 1)))
        angles = steps.float()[:, None] * rates
        first, second = self.time_in
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.conv_in.weight.dtype)
        return second(F.silu(first(waves)))

    def forward(self, condition: Tensor, steps: Tensor, event: Tensor, padding: Tensor | None) -> Tensor:
        """Compute logits (B, K, L).

        Args:
            condition: (B, C, L).
            steps: (B,), diffusion step of each video.
            event: (B, K, L), noisy labels from 0 to 1.
            padding: bool (B, 1, L), True on padded frames; None: no frame is padding.
        """
        shift = self.module.time_proj(F.silu(self.embed(steps)))
        x = clear_padding(self.conv_in(event) + shift[:, :, None], padding)
        for layer in self.module.layers:
            x = layer(x, condition, padding)
        return clear_padding(self.conv_out(x), padding)


class DiffAct(nn.Module):
    """DiffAct. Defaults are the published options for GTEA; docs/segmentation_models.md lists those of other data sets.

    Args:
        num_classes: K.
        in_features: D.
        encoder_layers: number of layers of the encoder; the dilation of layer i is 2^i.
        encoder_maps: number of channels of the encoder.
        encoder_kernel: kernel size of convolutions and attention of the encoder, odd.
        encoder_dropout: dropout probability of values inside a layer of the encoder.
        channel_dropout: dropout probability of channels of the features.
        frame_dropout: dropout probability of frames of the features.
        condition_layers: encoder layers, from 0, whose outputs form the condition.
        decoder_layers: number of layers of the decoder; the dilation of layer i is 2^i.
        decoder_maps: number of channels of the decoder.
        decoder_kernel: kernel size of convolutions and attention of the decoder, odd.
        decoder_dropout: dropout probability of values inside a layer of the decoder.
        scale: labels 0 and 1 are mapped to -scale and scale before noise is added; a larger value increases the
            signal-to-noise ratio.
        modes: masks of the condition in training, one drawn for each video and step (repeat a mode to draw it more
            often). "full": no mask. "zero": all frames are masked. "boundary03-": frames with a boundary target of at
            least 0.3 are masked (any two digits). "segment=2": the frames of two classes are masked; the classes are
            drawn independently and may be the same.
        steps: number of diffusion steps.
        sampling_steps: number of sampling steps, at most `steps`.
        eta: noise of DDIM sampling, from 0 (deterministic) to 1.

    Raises:
        ValueError: a kernel size is even, a condition layer does not exist, a mode is unknown, or sampling_steps is
            not in the range from 1 to steps.
    """

    seeded = True
    """`forward` takes the seeds of the videos."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        encoder_layers: int = 10,
        encoder_maps: int = 64,
        encoder_kernel: int = 5,
        encoder_dropout: float = 0.5,
        channel_dropout: float = 0.5,
        frame_dropout: float = 0.5,
        condition_layers: Sequence[int] = (5, 7, 9),
        decoder_layers: int = 8,
        decoder_maps: int = 24,
        decoder_kernel: int = 5,
        decoder_dropout: float = 0.1,
        scale: float = 0.5,
        modes: Sequence[str] = ("full", "zero", "boundary03-", "segment=1", "segment=1"),
        steps: int = 1000,
        sampling_steps: int = 25,
        eta: float = 1.0,
    ):
        super().__init__()
        if encoder_kernel % 2 == 0 or decoder_kernel % 2 == 0:
            raise ValueError(f"encoder_kernel={encoder_kernel} and decoder_kernel={decoder_kernel} must be odd")
        if not condition_layers or not set(condition_layers) <= set(range(encoder_layers)):
            raise ValueError(
                f"condition_layers={tuple(condition_layers)} must be encoder layers, from 0 to {encoder_layers - 1}"
            )
        if not modes or not all(re.fullmatch(r"full|zero|boundary\d\d-|segment=[1-9]", mode) for mode in modes):
            raise ValueError(
                f"modes={tuple(modes)}: each mode must be full, zero, boundary03- (any two digits) or segment=1"
            )
        if not 1 <= sampling_steps <= steps:
            raise ValueError(f"sampling_steps={sampling_steps} must be from 1 to steps={steps}")
        self.num_classes = num_classes
        self.in_features = in_features
        self.scale = scale
        self.modes = tuple(modes)
        self.sampling_steps = sampling_steps
        self.eta = eta
        self.signal = cosine_schedule(steps)
        self._times = _sampling_times(steps, sampling_steps)
        self.encoder = _Encoder(
            in_features,
            encoder_maps,
            num_classes,
            layers=encoder_layers,
            kernel=encoder_kernel,
            dropouts=(encoder_dropout, channel_dropout, frame_dropout),
            condition_layers=tuple(condition_layers),
        )
        self.decoder = _Decoder(
            encoder_maps * len(condition_layers),
            decoder_maps,
            num_classes,
            layers=decoder_layers,
            kernel=decoder_kernel,
            dropout=decoder_dropout,
        )

    def forward(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        boundaries: Tensor | None = None,
        seeds: int | Sequence[int] = 0,
        noise: Tensor | None = None,
    ) -> SegmentationOutput:
        """Sample labels, or compute the outputs of a training step if labels are given.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid frames; None: no frame is padding.
            labels: int64 (B, L), for training: the decoder reads these labels with the noise of a random step, and a
                masked condition. Negative values are frames without class. None: sample, without gradients in the
                decoder.
            boundaries: (B, 1, L), targets from 0 to 1, required for training with a "boundary" mode, see
                `vidseg.losses.targets.smoothed_boundaries`.
            seeds: seed of each video, or one seed for all videos, from 0 to 2^63 - 1.
            noise: (sampling_steps, B, K, L), the noise to sample with, see `video_noise`; None: that of the seeds.

        Returns:
            Output with logits (2, B, K, L): those of the encoder, then those of the decoder.

        Raises:
            ValueError: a shape is wrong, a label is too large, or required `boundaries` are missing.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        if labels is None and (noise is not None or torch.compiler.is_exporting()):
            return self._traced(features, padding, seeds, noise)
        generators = self._generators(seeds, features.shape[0])
        encoded, condition = self.encoder(clear_padding(features, padding), padding)
        lengths = video_lengths(features, padding).tolist()
        if labels is None:
            drawn = self._noise(generators, lengths, features)
            return SegmentationOutput(torch.stack([encoded, self.sample(condition, padding, drawn)]))
        self._check_labels(labels, boundaries, features)
        # Order of the draws of a video: mode, masked classes, step, noise.
        visible = [
            self._visible(labels[video, :length], None if boundaries is None else boundaries[video, 0, :length], draw)
            for video, (length, draw) in enumerate(zip(lengths, generators, strict=True))
        ]
        steps = [int(torch.randint(len(self.signal), (), generator=draw, device="cpu")) for draw in generators]
        start = next(self._noise(generators, lengths, features))
        shown = torch.stack([F.pad(frames, (0, features.shape[2] - len(frames))) for frames in visible])[:, None]
        event = clear_padding(self.noisy_event(labels, steps, start), padding)
        at = torch.tensor(steps, device=features.device)
        decoded = self.decoder(condition * shown.to(condition.dtype), at, event.to(condition.dtype), padding)
        return SegmentationOutput(torch.stack([encoded, decoded]))

    def _traced(
        self, features: Tensor, padding: Tensor | None, seeds: int | Sequence[int], noise: Tensor | None
    ) -> SegmentationOutput:
        """Sample with given noise, or in an exported graph, which draws all noise with one operator."""
        encoded, condition = self.encoder(clear_padding(features, padding), padding)
        if noise is None:
            noise = torch.ops.vidseg.video_noise(
                video_lengths(features, padding),
                [seeds] if isinstance(seeds, int) else list(seeds),
                self.sampling_steps,
                self.num_classes,
                features.shape[2],
            )
        return SegmentationOutput(torch.stack([encoded, self.sample(condition, padding, iter(noise.unbind(0)))]))

    def noisy_event(self, labels: Tensor, steps: Sequence[int], noise: Tensor) -> Tensor:
        """Return noisy labels in the value range of the decoder.

        Args:
            labels: int64 (B, L); negative values are frames without class.
            steps: diffusion step of each video.
            noise: (B, K, L), standard normal.

        Returns:
            float32 (B, K, L), from 0 to 1.
        """
        classes = torch.arange(self.num_classes, device=labels.device)[:, None]
        clean = (2.0 * (labels[:, None] == classes) - 1) * self.scale
        left = torch.tensor([self.signal[step] for step in steps], dtype=torch.float64, device=labels.device)
        noisy = left.sqrt()[:, None, None] * clean + (1 - left).sqrt()[:, None, None] * noise
        return self._to_event(noisy)

    @torch.no_grad()
    def sample(
        self, condition: Tensor, padding: Tensor | None, noise: Iterator[Tensor], *, sampling_steps: int | None = None
    ) -> Tensor:
        """Sample labels by DDIM; all computations except the decoder are in double precision.

        Args:
            condition: (B, C, L), from the encoder.
            padding: bool (B, 1, L), True on padded frames; None: no frame is padding.
            noise: standard normal tensors (B, K, L): the start, then one for each step except the last.
            sampling_steps: number of sampling steps; None: `sampling_steps` of the network.

        Returns:
            Logits (B, K, L) of the decoder at the last step; their softmax is the sampled result.
        """
        count = self.sampling_steps if sampling_steps is None else sampling_steps
        times = self._times if count == self.sampling_steps else _sampling_times(len(self.signal), count)
        x = next(noise).double()
        logits = x
        for now, then in pairwise(times):
            at = torch.full((x.shape[0],), now, device=x.device)
            event = clear_padding(self._to_event(x), padding)
            logits = self.decoder(condition, at, event.to(condition.dtype), padding)
            if then < 0:
                break
            clean = (2 * logits.softmax(dim=1).double() - 1) * self.scale
            a, b = self.signal[now], self.signal[then]
            residue = (x / math.sqrt(a) - clean) / math.sqrt(1 / a - 1)
            sigma = self.eta * math.sqrt((1 - a / b) * (1 - b) / (1 - a))
            x = math.sqrt(b) * clean + math.sqrt(1 - b - sigma**2) * residue + sigma * next(noise).double()
        return logits

    def _to_event(self, x: Tensor) -> Tensor:
        """Map noisy labels from -scale..scale to 0..1, float32, with clipping."""
        return ((x.clamp(-self.scale, self.scale) / self.scale + 1) / 2).float()

    @staticmethod
    def _generators(seeds: int | Sequence[int], videos: int) -> list[torch.Generator]:
        each = [seeds] * videos if isinstance(seeds, int) else [int(seed) for seed in seeds]
        if len(each) != videos:
            raise ValueError(f"{len(each)} seeds for {videos} videos; pass one seed per video, or one integer for all")
        return [torch.Generator("cpu").manual_seed(seed) for seed in each]

    def _noise(self, generators: list[torch.Generator], lengths: list[int], like: Tensor) -> Iterator[Tensor]:
        """Yield noise (B, K, L); that of a video depends on its seed and length, not on batch and device."""
        for noise in _padded_noise(generators, lengths, self.num_classes, like.shape[2]):
            yield noise.to(like.device)

    def _check_labels(self, labels: Tensor, boundaries: Tensor | None, features: Tensor) -> None:
        videos, _, frames = features.shape
        if labels.shape != (videos, frames):
            raise ValueError(f"labels must be {(videos, frames)}, but have shape {tuple(labels.shape)}")
        if int(labels.max()) >= self.num_classes:
            raise ValueError(f"label {int(labels.max())} in the batch is out of range for {self.num_classes} classes")
        if boundaries is None:
            if any(mode.startswith("boundary") for mode in self.modes):
                raise ValueError(
                    f"modes={self.modes} require boundaries (B, 1, L); pass boundaries, or remove the mode"
                )
        elif boundaries.shape != (videos, 1, frames):
            raise ValueError(f"boundaries must be {(videos, 1, frames)}, but have shape {tuple(boundaries.shape)}")

    def _visible(self, labels: Tensor, boundaries: Tensor | None, draw: torch.Generator) -> Tensor:
        """Draw a mode and return its visible frames of one video, bool (L,)."""
        mode = self.modes[int(torch.randint(len(self.modes), (), generator=draw, device="cpu"))]
        if mode.startswith("boundary") and boundaries is not None:
            return boundaries < int(mode[8:10]) / 10
        if mode.startswith("segment="):
            present = labels[labels >= 0].unique()
            drawn = [
                int(torch.randint(max(1, len(present)), (), generator=draw, device="cpu")) for _ in range(int(mode[8:]))
            ]
            return ~torch.isin(labels, present[[index for index in drawn if index < len(present)]])
        return torch.full(labels.shape, mode == "full", device=labels.device)


register_model("diffact", DiffAct, task="segmentation")
