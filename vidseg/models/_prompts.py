"""Sentences about labels, and the vocabularies that turn them into token numbers, for networks that read text.

Transeger tells its text encoder about each frame of the window before in a sentence; the wording is that of the
published weights, down to three misspelled ordinals.
"""

import functools
import gzip
import re
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Protocol

__all__ = ["BytePairVocabulary", "Vocabulary", "WordVocabulary", "frame_sentences", "in_words", "sentence_parts"]

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_IRREGULAR = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
# The published sentences for these runs of a window are spelled like this.
_PUBLISHED_SLIPS = {
    11: "This is the eleventhly, ",
    12: "This is the twelfthly action, ",
    16: "This is the sixteenth, ",
}


def in_words(number: int) -> str:
    """A number from 0 to 9999 in English words, such as "one hundred and thirty-two"."""
    if not 0 <= number <= 9999:
        raise ValueError(f"{number} is not between 0 and 9999")
    if number < 20:
        return _SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    count, rest = divmod(number, unit)
    if not rest:
        return f"{in_words(count)} {name}"
    return f"{in_words(count)} {name}{' and ' if rest < 100 else ', '}{in_words(rest)}"


def _ordinal(number: int) -> str:
    head, hyphen, last = in_words(number).rpartition("-")
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return head + hyphen + _IRREGULAR.get(last, regular)


def sentence_parts(number: int) -> tuple[str, str, str]:
    """The three parts of a frame's sentence that depend on one number each: of its run, the run's length, the frame."""
    return (
        _PUBLISHED_SLIPS.get(number, f"This is the {_ordinal(number)} action, "),
        f"This action lasted {in_words(number)} frames in current windows, ",
        f"This is frame {in_words(number)} of the action, ",
    )


@functools.lru_cache(maxsize=4096)
def _sentence(run: int, length: int, frame: int) -> str:
    return sentence_parts(run)[0] + sentence_parts(length)[1] + sentence_parts(frame)[2]


def frame_sentences(labels: Sequence[int]) -> list[str]:
    """What is said about each frame of a window, up to the class: number and length of its run, number in the window.

    Args:
        labels: (T,) class numbers; a run is a stretch of equal ones.
    """
    sentences: list[str] = []
    for run, (_, members) in enumerate(groupby(labels), 1):
        length = len(list(members))
        sentences += [_sentence(run, length, len(sentences) + offset + 1) for offset in range(length)]
    return sentences


class Vocabulary(Protocol):
    """Turns text into token numbers; the last two numbers start and end a sentence."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without start and end."""


# Letters, single digits, or whatever else is no space.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class WordVocabulary:
    """A token for each word that the sentences and the class names use: for training from scratch.

    Args:
        class_names: in the order of the class numbers, which also orders their words.
        size: number of tokens of the embedding; at least the words, start and end.
    """

    def __init__(self, class_names: Sequence[str], *, size: int = 49_408):
        runs = " ".join(_sentence(run, 9999, run) for run in range(1, 100))
        numbers = " ".join(in_words(number) for number in (*range(100), 100, 1000))
        words = dict.fromkeys(_PIECES.findall(" ".join((runs, numbers, ". and", *class_names)).lower()))
        if len(words) + 2 > size:
            raise ValueError(f"{len(words)} words, start and end do not fit into a vocabulary of {size}")
        self.size = size
        self._numbers = {word: number for number, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        """Token numbers of the words of a text.

        Raises:
            ValueError: a word is in no sentence and in no class name.
        """
        pieces = _PIECES.findall(text.lower())
        unknown = [piece for piece in pieces if piece not in self._numbers]
        if unknown:
            raise ValueError(f"the word {unknown[0]!r} is not in the vocabulary")
        return [self._numbers[piece] for piece in pieces]


def _byte_symbols() -> dict[int, str]:
    """A visible character for each byte, in the order in which CLIP's vocabulary numbers them."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}


class BytePairVocabulary:
    """CLIP's byte pair encoding ("Learning Transferable Visual Models", 2021), for weights that were trained with it.

    Args:
        path: CLIP's `bpe_simple_vocab_16e6.txt.gz`, or the same text unpacked: a heading, then a merge in each line.
        merges: how many of the file's merges count; 48 894 as published, which gives 49 408 tokens.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not two symbols.
    """

    def __init__(self, path: str | Path, *, merges: int = 48_894):
        path = Path(path)
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode()
        lines = text.split("\n")[1 : 1 + merges]
        pairs: list[tuple[str, str]] = []
        for number, line in enumerate(lines, 2):
            match line.split():
                case [left, right]:
                    pairs.append((left, right))
                case []:
                    break
                case _:
                    raise ValueError(f"{path}:{number}: {line!r} is not a merge of two symbols")
        self._letters = _byte_symbols()
        letters = self._letters.values()
        symbols = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in pairs)]
        self.size = len(symbols) + 2
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text."""
        numbers: list[int] = []
        for piece in _PIECES.findall(" ".join(text.lower().split())):
            if piece not in self._known:
                self._known[piece] = self._merge(piece)
            numbers += self._known[piece]
        return numbers

    def _merge(self, piece: str) -> list[int]:
        symbols = [self._letters[byte] for byte in piece.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined: list[str] = []
            for symbol in symbols:
                # A symbol that was just joined has another name, so it cannot be the left part again.
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            symbols = joined
        return [self._numbers[symbol] for symbol in symbols]
