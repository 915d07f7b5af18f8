"""Transeger: a streaming transducer that reads its own labels of the window before, as sentences.

"Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808. MobileNetV2 with temporal shift looks at
the frames; a text encoder reads what each frame of the window before was labeled (in training its true label); a
causal temporal convolutional network with memory joins the two. Names of parameters are those of the published weights.

Shapes: B videos, T frames, U tokens of a sentence, K classes, S stages.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._prompts import BytePairVocabulary, Vocabulary, WordVocabulary, sentence_parts
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.memory_tcn import MemoryResidualLayer
from vidseg.models.mobilenet_tsm import MobileNetTsm

__all__ = ["Transeger"]

_IGNORED = -100

# What is known of a video's window before; a state of zeros is a stream's start.
_NOTHING, _LABELS, _INCOMPLETE = range(3)


class _QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class _TextBlock(nn.Module):
    """A pre-norm transformer layer in CLIP's form."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["c_fc"] = nn.Linear(width, 4 * width)
        layers["gelu"] = _QuickGelu()
        layers["c_proj"] = nn.Linear(4 * width, width)
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
    """Token embeddings of the sentences, with learned vectors for each class in front of the class name."""

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
        # Rows 1 to `frames` of the first three tables are the parts of the sentences; row k of the last one is what
        # follows for class k: numbers of its learned vectors, counted from the vocabulary's end, its name, the end.
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
        """Labels (B, T) -> sentence of each frame (B, T, U): tokens, numbers of class contexts, -1 behind the end."""
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
        """Labels (B, T) of the window before and what they are worth (B,) -> embeddings (B, T, U, width)."""
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
        """-> (B, features, T)."""
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
        """Clips (B, 3, T, H, W), mask (B, T) -> (B, features, T)."""
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
        """Two (B, features, T), mask (B, 1, T) -> logits (1, B, K, T) and the pasts of the layers.

        The text is turned around in time: the end of the window before meets the beginning of this one.
        """
        x = self.conv_1x1(torch.cat([image, text.flip(2)], dim=1))
        pasts = {}
        for number, (layer, dilation) in enumerate(zip(self.layers, self.dilations, strict=True)):
            name = f"layer{number}"
            x, pasts[name] = layer(x, mask, memory(state, name, x, (x.shape[1], 2 * dilation)))
        return (self.conv_out(x) * mask)[None], pasts


class Transeger(StreamModel):
    """Image encoder, text encoder and joint network; 38 444 939 parameters for 11 classes as published.

    In training call `observe` after each window, so that the text encoder reads true labels (teacher forcing);
    otherwise it reads the network's own.

    Args:
        num_classes: K.
        frames: T of every window; the positions of the text encoder are learned for it.
        class_names: K names, which the sentences speak; None: "class zero", "class one", ...
        vocabulary: CLIP's vocabulary file (`bpe_simple_vocab_16e6.txt.gz`), for weights that were trained with its
            tokens; None: one token for each word, for training from scratch.
        vocabulary_size: tokens of the embedding where `vocabulary` is None.
        text_width: of the text encoder.
        text_layers: of the text encoder.
        text_heads: of the text encoder.
        tokens: U; longer sentences are cut, shorter ones padded with zeros.
        contexts: learned vectors of each class.
        features: of a frame, from each encoder.
        channels: of the joint network.
        layers: of the joint network.
        shift_division: one part in this many of the backbone's channels is shifted each way.
        width: multiplier of the backbone's widths, for small machines.
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
    ):
        super().__init__()
        names = [f"class {number}" for number in range(num_classes)] if class_names is None else list(class_names)
        if len(names) != num_classes:
            raise ValueError(f"{len(names)} class names for num_classes={num_classes}")
        words: Vocabulary = (
            WordVocabulary(names, size=vocabulary_size) if vocabulary is None else BytePairVocabulary(vocabulary)
        )
        self.num_classes = num_classes
        self.frames = frames
        self.image_backbone = _ImageBackbone(MobileNetTsm(shift_division=shift_division, width=width), features)
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
        """See `StreamModel.forward`; one stage.

        Raises:
            ValueError: the window has another number of frames than the network.
        """
        batch, frames = clips.shape[0], clips.shape[2]
        if frames != self.frames:
            raise ValueError(f"windows of {frames} frames for a network of frames={self.frames}")
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
        """Put the true labels in the place of the network's own; see `StreamModel.observe`.

        A window with any frame without label counts as incomplete, as published.

        Raises:
            ValueError: the labels are not a whole number for each frame of the window, or one is not a class.
        """
        batch, frames = state["previous"].shape
        if labels.dim() != 2 or len(labels) != batch or labels.shape[1] == 0 or labels.shape[1] % frames:
            raise ValueError(f"labels of shape {tuple(labels.shape)} for {batch} windows of {frames} frames")
        missing = labels == _IGNORED
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~missing
        if wrong.any():
            raise ValueError(f"label {int(labels[wrong][0])} is not one of {self.num_classes} classes, nor {_IGNORED}")
        sampled = labels[:, :: labels.shape[1] // frames].clamp(min=0).to(state["previous"].device)
        status = torch.where(missing.any(dim=1), _INCOMPLETE, _LABELS).to(state["status"].device)
        return StreamState(dict(state) | {"previous": sampled, "status": status})


register_model(
    "transeger",
    Transeger,
    task="streaming",
    input_spec=InputSpec(frames=32, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
