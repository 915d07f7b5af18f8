"""Transeger: a streaming transducer that reads the predicted labels of the previous window as sentences.

"Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808. MobileNetV2 with temporal shift encodes
the frames. A text encoder reads the predicted labels of the previous window, in training the true labels. A causal
temporal convolutional network with memory combines both. Parameter names are those of the published weights.

Shapes: B videos, T frames, U tokens of a sentence, K classes, S stages.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._linear import RowLinear
from vidseg.models._prompts import BytePairVocabulary, Vocabulary, WordVocabulary, sentence_parts
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.memory_tcn import MemoryResidualLayer
from vidseg.models.mobilenet_tsm import MobileNetTsm, tsm_backbone

__all__ = ["Transeger"]

_IGNORED = -100

# Status of the labels of the previous window; 0 is the start of a stream.
_NOTHING, _LABELS, _INCOMPLETE = range(3)


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class _TextBlock(nn.Module):
    """Pre-norm transformer layer of CLIP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["c_fc"] = RowLinear(width, 4 * width)
        layers["gelu"] = _QuickGelu()
        layers["c_proj"] = RowLinear(4 * width, width)
        self.mlp = nn.Sequential(layers)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.resblocks = nn.Sequential(*(_TextBlock(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class _PromptLearner(nn.Module):
    """Token embeddings of the sentences, with learned vectors for each class before the class name."""

    parts: Tensor
    lengths: Tensor

    def __init__(
        self, class_names: Sequence[str], vocabulary: Vocabulary, *, frames: int, width: int, tokens: int, contexts: int
    ):
        super().__init__()
        self.size, self.tokens = vocabulary.size, tokens
        self.start, self.end = vocabulary.size - 2, vocabulary.size - 1
        self.ctx = nn.Parameter(torch.empty(len(class_names), contexts, width))
        self.token_embedding = nn.Embedding(vocabulary.size, width)
        nn.init.normal_(self.ctx, std=0.2)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        # Rows 1 to `frames` of the first three tables are the parts of the sentences. Row k of the last table is the
        # end of the sentence for class k: its learned vectors, numbered after the vocabulary, its name, the end token.
        sentences = [[vocabulary.encode(part) for part in sentence_parts(number)] for number in range(1, frames + 1)]
        tables: list[list[list[int]]] = [[[], *(row[part] for row in sentences)] for part in range(3)]
        closing = []
        for number, name in enumerate(class_names):
            first = vocabulary.size + number * contexts
            closing.append([*range(first, first + contexts), *vocabulary.encode(f"{name}."), self.end])
        tables.append(closing)
        rows, longest = max(map(len, tables)), max(len(row) for table in tables for row in table)
        tables = [table + [[]] * (rows - len(table)) for table in tables]
        padded = [[row + [0] * (longest - len(row)) for row in table] for table in tables]
        sizes = [[len(row) for row in table] for table in tables]
        self.register_buffer("parts", torch.tensor(padded), persistent=False)
        self.register_buffer("lengths", torch.tensor(sizes), persistent=False)

    def numbers(self, labels: Tensor) -> Tensor:
        """Return the sentences (B, T, U) for labels (B, T): numbers of tokens and learned vectors, -1 after the end."""
        run = F.pad((labels[:, 1:] != labels[:, :-1]).long(), (1, 0)).cumsum(dim=1) + 1
        length = (run[:, :, None] == run[:, None, :]).sum(dim=2)
        frame = torch.arange(1, labels.shape[1] + 1, device=labels.device).expand_as(labels)
        place = torch.arange(self.tokens, device=labels.device) - 1
        numbers = torch.where(place < 0, self.start, -1).expand(*labels.shape, -1)
        place = place.expand(*labels.shape, -1)
        for part, index in enumerate((run, length, frame, labels)):
            size = self.lengths[part, index][..., None]
            values = self.parts[part, index].gather(2, place.clamp(0, self.parts.shape[2] - 1))
            numbers = torch.where((place >= 0) & (place < size), values, numbers)
            place = place - size
        return numbers

    def forward(self, previous: Tensor, status: Tensor) -> Tensor:
        """Return embeddings (B, T, U, width) for the labels (B, T) of the previous window and their status (B,)."""
        known, begins = (status[:, None, None] == kind for kind in (_LABELS, _NOTHING))
        numbers = torch.where(known, self.numbers(previous), torch.where(begins, self.start, self.end))
        embedded = self.token_embedding(numbers.clamp(0, self.size - 1))
        learned = self.ctx.flatten(0, 1)[(numbers - self.size).clamp(min=0)]
        embedded = torch.where((numbers >= self.size)[..., None], learned, embedded)
        return embedded * (numbers >= 0)[..., None]


class _TextEncoder(nn.Module):
    def __init__(
        self,
        prompts: _PromptLearner,
        *,
        frames: int,
        width: int,
        layers: int,
        heads: int,
        features: int,
    ):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(frames, prompts.tokens, width))
        self.prompt_learner = prompts
        self.transformer = _Transformer(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Linear(width, features)
        self.squeeze_sentence = nn.Linear(prompts.tokens * features, features)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def forward(self, previous: Tensor, status: Tensor) -> Tensor:
        """Compute features (B, features, T) from the labels (B, T) of the previous window and their status (B,)."""
        x = (self.prompt_learner(previous, status) + self.positional_embedding).flatten(0, 1)
        x = self.text_projection(self.ln_final(self.transformer(x))).flatten(1)
        return self.squeeze_sentence(x).unflatten(0, previous.shape).transpose(1, 2)


class _TextBackbone(nn.Module):
    def __init__(self, encoder: _TextEncoder):
        super().__init__()
        self.encoder = encoder


class _Projection(nn.Module):
    def __init__(self, in_features: int, features: int):
        super().__init__()
        self.project = nn.Conv1d(in_features, features, 1, bias=False)


class _ImageBackbone(nn.Module):
    def __init__(self, backbone: MobileNetTsm, features: int):
        super().__init__()
        self.backbone = backbone
        self.head = _Projection(backbone.num_features, features)

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Compute features (B, features, T) of clips (B, C, T, H, W) with a mask (B, T), 1 on valid frames."""
        pooled = self.backbone(clips, mask)[1].mean(dim=(3, 4)).transpose(1, 2)
        return self.head.project(pooled * mask[:, None]) * mask[:, None]


class _Joint(nn.Module):
    def __init__(self, features: int, channels: int, layers: int, num_classes: int):
        super().__init__()
        self.dilations = [2**number for number in reversed(range(layers))]
        self.layers = nn.ModuleList(MemoryResidualLayer(channels, dilation) for dilation in self.dilations)
        self.conv_1x1 = nn.Conv1d(2 * features, channels, 1)
        self.conv_out = nn.Conv1d(channels, num_classes, 1)

    def forward(
        self, image: Tensor, text: Tensor, mask: Tensor, state: StreamState | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (1, B, K, T) and the stored columns of the layers.

        The text features are reversed in time, so that the end of the previous window is aligned with the start of the
        current one.

        Args:
            image: (B, features, T) of the current window.
            text: (B, features, T) of the previous window.
            mask: (B, 1, T), 1 on valid frames.
            state: state of the previous window; None at the start of all videos.
        """
        x = self.conv_1x1(torch.cat([image, text.flip(2)], dim=1))
        pasts = {}
        for number, (layer, dilation) in enumerate(zip(self.layers, self.dilations, strict=True)):
            name = f"layer{number}"
            x, pasts[name] = layer(x, mask, memory(state, name, x, (x.shape[1], 2 * dilation)))
        return (self.conv_out(x) * mask)[None], pasts


class Transeger(StreamModel):
    """Image encoder, text encoder and joint network; 38 444 939 parameters for 11 classes.

    In training, `observe` after each window replaces the predicted labels by the true ones (teacher forcing).

    Args:
        num_classes: K.
        frames: T of every window; the text encoder has learned positions for T frames.
        class_names: K names in the sentences; None: "class 0", "class 1", ...
        vocabulary: path of CLIP's vocabulary (`bpe_simple_vocab_16e6.txt.gz`), required for weights trained with it;
            None: one token per word, for training from scratch.
        vocabulary_size: number of tokens of the embedding if `vocabulary` is None.
        text_width: width of the text encoder.
        text_layers: number of layers of the text encoder.
        text_heads: number of attention heads of the text encoder.
        tokens: U; longer sentences are truncated, shorter ones padded with zeros.
        contexts: number of learned vectors of each class.
        features: number of features of a frame from each encoder.
        channels: number of channels of the joint network.
        layers: number of layers of the joint network.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.

    Raises:
        ValueError: the number of class names is not K, or the vocabulary is too small.
        FileNotFoundError: the vocabulary file does not exist.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        frames: int = 32,
        class_names: Sequence[str] | None = None,
        vocabulary: str | Path | None = None,
        vocabulary_size: int = 49_408,
        text_width: int = 512,
        text_layers: int = 3,
        text_heads: int = 8,
        tokens: int = 50,
        contexts: int = 8,
        features: int = 64,
        channels: int = 128,
        layers: int = 4,
        shift_division: int = 8,
        width: float = 1.0,
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        names = [f"class {number}" for number in range(num_classes)] if class_names is None else list(class_names)
        if len(names) != num_classes:
            raise ValueError(f"{len(names)} class names for num_classes={num_classes}; expected one name per class")
        words: Vocabulary = (
            WordVocabulary(names, size=vocabulary_size) if vocabulary is None else BytePairVocabulary(vocabulary)
        )
        self.num_classes = num_classes
        self.frames = frames
        backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
        self.image_backbone = _ImageBackbone(backbone, features)
        prompts = _PromptLearner(names, words, frames=frames, width=text_width, tokens=tokens, contexts=contexts)
        self.text_backbone = _TextBackbone(
            _TextEncoder(
                prompts, frames=frames, width=text_width, layers=text_layers, heads=text_heads, features=features
            )
        )
        self.joint = _Joint(features, channels, layers, num_classes)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits with S = 1, see `StreamModel.forward`.

        Raises:
            ValueError: the number of frames is not `frames` of the network.
        """
        batch, frames = clips.shape[0], clips.shape[2]
        if frames != self.frames:
            raise ValueError(f"windows of {frames} frames for a network built with frames={self.frames}")
        keep = frame_mask(mask, clips)
        if state is None:
            previous = torch.zeros(batch, frames, dtype=torch.int64, device=clips.device)
            status = previous[:, 0]
        else:
            previous = memory(state, "previous", clips, (frames,))
            status = memory(state, "status", clips, ())
        image = self.image_backbone(clips, keep)
        text = self.text_backbone.encoder(previous, status)
        logits, pasts = self.joint(image, text, keep[:, None], state)
        own = {"previous": logits[-1].argmax(dim=1), "status": torch.full_like(status, _LABELS)}
        return StreamOutput(logits), StreamState(pasts | own)

    def observe(self, state: StreamState, labels: Tensor) -> StreamState:
        """Replace the predicted labels of the last window by the true ones, see `StreamModel.observe`.

        As in the published code, a window with at least one unlabeled frame is incomplete: its labels are not used.

        Args:
            state: state returned for the window.
            labels: int64 (B, T * R), class numbers at full frame rate, -100 for frames without label.

        Raises:
            ValueError: the number of labels is not a multiple of T, or a label is out of range.
        """
        batch, frames = state["previous"].shape
        if labels.dim() != 2 or len(labels) != batch or labels.shape[1] == 0 or labels.shape[1] % frames:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; expected ({batch}, L) with L a multiple of {frames} frames"
            )
        missing = labels == _IGNORED
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~missing
        if wrong.any():
            raise ValueError(
                f"label {int(labels[wrong][0])} is out of range for {self.num_classes} classes and is not {_IGNORED}"
            )
        sampled = labels[:, :: labels.shape[1] // frames].clamp(min=0).to(state["previous"].device)
        status = torch.where(missing.any(dim=1), _INCOMPLETE, _LABELS).to(state["status"].device)
        return StreamState(dict(state) | {"previous": sampled, "status": status})


register_model(
    "transeger",
    Transeger,
    task="streaming",
    input_spec=InputSpec(frames=32, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
