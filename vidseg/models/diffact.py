"""DiffAct: the labels of a video are drawn out of noise, step by step, conditioned on its features.

"Diffusion Action Segmentation", ICCV 2023, arXiv 2303.17959; sampling by DDIM, arXiv 2010.02502. An encoder turns
features into class scores and into the condition; a decoder, given the condition and noisy labels, predicts the labels.
Names of parameters are those of the published weights.

All randomness of a video comes from its seed: which condition is hidden, the step, the noise. (Dropout is torch's own.)

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

__all__ = ["DiffAct", "cosine_schedule", "neighbor_attention"]

_TIME_CHANNELS = 512


@torch.library.custom_op("vidseg::video_noise", mutates_args=())
def _video_noise(lengths: Tensor, seeds: Sequence[int], draws: int, channels: int, frames: int) -> Tensor:
    """Standard normal (draws, B, channels, frames), 0 on padding, as `DiffAct._noise` draws it; for exported graphs.

    A single seed is that of all videos.
    """
    each = list(seeds) * (len(lengths) if len(seeds) == 1 else 1)
    generators = DiffAct._generators(each, len(lengths))
    noise = _padded_noise(generators, lengths.tolist(), channels, frames)
    return torch.stack([next(noise) for _ in range(draws)]).to(lengths.device)


@_video_noise.register_fake
def _(lengths: Tensor, seeds: Sequence[int], draws: int, channels: int, frames: int) -> Tensor:
    return torch.empty(draws, lengths.shape[0], channels, frames, device=lengths.device)


def _padded_noise(
    generators: Sequence[torch.Generator], lengths: Sequence[int], channels: int, frames: int
) -> Iterator[Tensor]:
    """Noise (B, channels, frames) for ever, on the CPU: each video's depends on its generator and length alone."""
    while True:
        drawn = [
            F.pad(torch.randn(channels, length, generator=draw, device="cpu"), (0, frames - length))
            for draw, length in zip(generators, lengths, strict=True)
        ]
        yield torch.stack(drawn)


def cosine_schedule(steps: int) -> list[float]:
    """The signal's share of the variance after each step, in double precision (arXiv 2102.09672, section 3.2)."""
    signal = [math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(steps + 1)]
    kept = (max(after / before, 0.001) for before, after in pairwise(signal))  # a step loses at most 0.999
    return list(accumulate(kept, operator.mul))


def _sampling_times(steps: int, count: int) -> list[int]:
    """Steps of the diffusion at which sampling stops, from the last one to -1, the end."""
    times: list[int] = torch.linspace(-1, steps - 1, count + 1, device="cpu").int().tolist()
    return times[::-1]


def neighbor_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, kernel: int, dilation: int
) -> Tensor:
    """Attention of each frame to `kernel` frames around it, `dilation` apart, as a convolution would see them.

    Frames outside the video count as zeros whose exp(score) enters the softmax's sum 1e-6-fold and which get no weight.

    Args:
        query: (B, C, L).
        key: (B, C, L), 0 on padded frames.
        value: (B, C, L).
        valid: (B, 1, L), 1 on the frames of a video and 0 on padding.
        kernel: odd.
        dilation: in frames.

    Returns:
        (B, C, L).
    """
    frames, reach = query.shape[2], dilation * (kernel // 2)

    def neighbors(x: Tensor) -> Tensor:
        """(B, C, L) -> (B, kernel, C, L)."""
        padded = F.pad(x, (reach, reach))
        starts = range(0, 2 * reach + 1, dilation)
        return torch.stack([padded[..., start : start + frames] for start in starts], dim=1)

    counts = neighbors(valid).squeeze(2)
    scores = (query[:, None] * neighbors(key)).sum(dim=2) / math.sqrt(query.shape[1])
    weights = (scores + (counts + 1e-6).log()).softmax(dim=1) * counts
    return (weights[:, :, None] * neighbors(value)).sum(dim=1)


class _Layer(nn.Module):
    """Dilated convolution and attention side by side, instance normalization, two pointwise convolutions, shortcut."""

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
    """Features to class scores and to the condition of the decoder."""

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
        """Logits (B, K, L) and the condition (B, C, L)."""
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
    """Noisy labels, their step and the condition to class scores."""

    def __init__(self, condition: int, maps: int, classes: int, *, layers: int, kernel: int, dropout: float):
        super().__init__()
        self.time_in = nn.ModuleList(nn.Linear(_TIME_CHANNELS, _TIME_CHANNELS) for _ in range(2))
        self.conv_in = nn.Conv1d(classes, maps, 1)
        self.module = _DecoderBody(maps, _stack(layers, maps, condition, kernel=kernel, dropout=dropout))
        self.conv_out = nn.Conv1d(maps, classes, 1)

    def embed(self, steps: Tensor) -> Tensor:
        """Steps (B,) -> (B, 512): sines, then cosines, of 256 wave lengths, through two linear layers."""
        half = _TIME_CHANNELS // 2
        rates = torch.exp(torch.arange(half, device=steps.device) * (-math.log(10000) / (half - 1)))
        angles = steps.float()[:, None] * rates
        first, second = self.time_in
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.conv_in.weight.dtype)
        return second(F.silu(first(waves)))

    def forward(self, condition: Tensor, steps: Tensor, event: Tensor, padding: Tensor | None) -> Tensor:
        """Condition (B, C, L), steps (B,), event (B, K, L) in [0, 1] -> logits (B, K, L)."""
        shift = self.module.time_proj(F.silu(self.embed(steps)))
        x = clear_padding(self.conv_in(event) + shift[:, :, None], padding)
        for layer in self.module.layers:
            x = layer(x, condition, padding)
        return clear_padding(self.conv_out(x), padding)


class DiffAct(nn.Module):
    """DiffAct; defaults are those published for GTEA (docs/segmentation_models.md has the others).

    Args:
        num_classes: K.
        in_features: D.
        encoder_layers: layers of the encoder; the dilation of layer i is 2^i.
        encoder_maps: its channels.
        encoder_kernel: frames of its convolutions and attention, odd.
        encoder_dropout: probability of dropping a value inside a layer of the encoder.
        channel_dropout: of dropping a whole channel of the features.
        frame_dropout: of dropping a whole frame of the features.
        condition_layers: encoder layers, from 0, whose outputs are the decoder's condition.
        decoder_layers: layers of the decoder.
        decoder_maps: its channels.
        decoder_kernel: frames of its convolutions and attention, odd.
        decoder_dropout: probability of dropping a value inside a layer of the decoder.
        scale: half of the distance between a label's 0 and 1 before noise is added: the signal-to-noise ratio.
        modes: how the condition is hidden in training, one drawn for each video and step (a repeated one is drawn more
            often): "full", not at all; "zero", wholly; "boundary03-", where the boundary target is 0.3 or more
            (any two digits); "segment=2", on all frames of two classes, drawn one by one, so possibly the same.
        steps: steps of the diffusion.
        sampling_steps: steps of the sampling, at most `steps`.
        eta: noise of the sampling, from 0 (none) to 1.

    Raises:
        ValueError: a kernel is even, a condition layer does not exist, a mode is unknown, or steps and sampling_steps
            disagree.
    """

    seeded = True
    """`forward` takes `seeds` of what it draws."""

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
                f"condition_layers={tuple(condition_layers)}: the encoder's layers are 0 to {encoder_layers - 1}"
            )
        if not modes or not all(re.fullmatch(r"full|zero|boundary\d\d-|segment=[1-9]", mode) for mode in modes):
            raise ValueError(f"modes={tuple(modes)}: a mode is full, zero, boundary03- (any two digits) or segment=1")
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
    ) -> SegmentationOutput:
        """Sample labels, or, given the labels, take one step of training.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on the frames of a video; None: no frame is padding.
            labels: int64 (B, L), for training: the decoder then sees these, noisy at a random step, and a condition
                partly hidden. Negative ones are of no class. None: the decoder samples, without gradient.
            boundaries: (B, 1, L), targets from 0 to 1, for training with a "boundary" mode
                (`vidseg.losses.targets.smoothed_boundaries`).
            seeds: of each video, or one for all: from 0 to 2^63 - 1.

        Returns:
            logits (2, B, K, L): the encoder's, then the decoder's.

        Raises:
            ValueError: a shape is wrong, a label is too large, or `boundaries` are needed and not there.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        if torch.compiler.is_exporting() and labels is None:
            return self._traced(features, padding, seeds)
        generators = self._generators(seeds, features.shape[0])
        encoded, condition = self.encoder(clear_padding(features, padding), padding)
        lengths = video_lengths(features, padding).tolist()
        if labels is None:
            noise = self._noise(generators, lengths, features)
            return SegmentationOutput(torch.stack([encoded, self.sample(condition, padding, noise)]))
        self._check_labels(labels, boundaries, features)
        # The draws of a video, always in this order: mode, classes hidden, step, noise.
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

    def _traced(self, features: Tensor, padding: Tensor | None, seeds: int | Sequence[int]) -> SegmentationOutput:
        """Sampling as an exported graph can do it, in which drawing the noise is one operator."""
        encoded, condition = self.encoder(clear_padding(features, padding), padding)
        noise = torch.ops.vidseg.video_noise(
            video_lengths(features, padding),
            [seeds] if isinstance(seeds, int) else list(seeds),
            self.sampling_steps,
            self.num_classes,
            features.shape[2],
        )
        return SegmentationOutput(torch.stack([encoded, self.sample(condition, padding, iter(noise.unbind(0)))]))

    def noisy_event(self, labels: Tensor, steps: Sequence[int], noise: Tensor) -> Tensor:
        """Labels as the decoder sees them after some steps of the diffusion.

        Args:
            labels: int64 (B, L); negative ones are of no class.
            steps: of each video.
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
        """Draw labels out of noise by DDIM, in double precision but for the decoder.

        Args:
            condition: (B, C, L), from the encoder.
            padding: bool (B, 1, L), True on padding, or None.
            noise: standard normal (B, K, L) tensors: the start, then one for each step but the last.
            sampling_steps: None: as the network was built.

        Returns:
            The decoder's logits (B, K, L) at the last step; their softmax is the sampled result.
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
        """Noisy labels around -scale and scale to float32 from 0 to 1."""
        return ((x.clamp(-self.scale, self.scale) / self.scale + 1) / 2).float()

    @staticmethod
    def _generators(seeds: int | Sequence[int], videos: int) -> list[torch.Generator]:
        each = [seeds] * videos if isinstance(seeds, int) else [int(seed) for seed in seeds]
        if len(each) != videos:
            raise ValueError(f"{len(each)} seeds for {videos} videos: give one for each, or one for all")
        return [torch.Generator("cpu").manual_seed(seed) for seed in each]

    def _noise(self, generators: list[torch.Generator], lengths: list[int], like: Tensor) -> Iterator[Tensor]:
        """Noise (B, K, L) for ever: each video's depends on its seed and length alone, and on no device."""
        for noise in _padded_noise(generators, lengths, self.num_classes, like.shape[2]):
            yield noise.to(like.device)

    def _check_labels(self, labels: Tensor, boundaries: Tensor | None, features: Tensor) -> None:
        videos, _, frames = features.shape
        if labels.shape != (videos, frames):
            raise ValueError(f"labels must be {(videos, frames)}, but have shape {tuple(labels.shape)}")
        if int(labels.max()) >= self.num_classes:
            raise ValueError(f"label {int(labels.max())} in the batch: there are {self.num_classes} classes, from 0")
        if boundaries is None:
            if any(mode.startswith("boundary") for mode in self.modes):
                raise ValueError(f"modes={self.modes} need boundaries (B, 1, L); give them, or leave that mode out")
        elif boundaries.shape != (videos, 1, frames):
            raise ValueError(f"boundaries must be {(videos, 1, frames)}, but have shape {tuple(boundaries.shape)}")

    def _visible(self, labels: Tensor, boundaries: Tensor | None, draw: torch.Generator) -> Tensor:
        """bool (L,): the frames of one video whose condition is shown, in the mode drawn for it."""
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
