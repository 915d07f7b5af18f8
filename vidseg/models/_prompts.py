"""Sentences that describe the labels of frames, and vocabularies that convert text to token numbers.

The text encoder of Transeger reads one sentence per frame of the previous window. The wording, including three
misspelled ordinals, is that of the published weights.
"""

import gzip
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

__all__ = ["BytePairVocabulary", "Vocabulary", "WordVocabulary", "in_words", "sentence_parts"]

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
# Misspellings in the published sentences, by number of the segment.
_PUBLISHED_SPELLINGS = {
    11: "This is the eleventhly, ",
    12: "This is the twelfthly action, ",
    16: "This is the sixteenth, ",
}


def in_words(number: int) -> str:
    """Return a number in English words, such as "one hundred and thirty-two".

    Args:
        number: from 0 to 9999.

    Raises:
        ValueError: the number is out of range.
    """
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
    """Return the three parts of a frame's sentence for one number.

    The sentence of a frame is the first part for the number of its segment in the window, the second part for the
    length of the segment, the third part for the number of the frame in the window, and the name of the class.

    Args:
        number: from 1 to 9999.
    """
    return (
        _PUBLISHED_SPELLINGS.get(number, f"This is the {_ordinal(number)} action, "),
        f"This action lasted {in_words(number)} frames in current windows, ",
        f"This is frame {in_words(number)} of the action, ",
    )


class Vocabulary(Protocol):
    """Mapping from text to token numbers; the last two numbers start and end a sentence."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text, without start and end."""


# English contractions, words, single digits, and runs of other characters.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


class WordVocabulary:
    """Vocabulary of the words in the sentences and the class names, for training from scratch.

    Args:
        class_names: names in the order of the class numbers.
        size: number of tokens of the embedding, at least the number of words plus two.

    Raises:
        ValueError: the words do not fit into `size` tokens.
    """

    def __init__(self, class_names: Sequence[str], *, size: int = 49_408):
        parts = [sentence_parts(number) for number in range(1, 100)]
        length = sentence_parts(9999)[1]
        sentences = " ".join(segment + length + frame for segment, _, frame in parts)
        numbers = " ".join(in_words(number) for number in (*range(100), 100, 1000))
        words = dict.fromkeys(_PIECES.findall(" ".join((sentences, numbers, ". and", *class_names)).lower()))
        if len(words) + 2 > size:
            raise ValueError(
                f"{len(words)} words, start and end do not fit into a vocabulary of size {size}; use at least "
                f"{len(words) + 2}"
            )
        self.size = size
        self._numbers = {word: number for number, word in enumerate(words)}

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of the words of a text.

        Raises:
            ValueError: a word is not in the vocabulary.
        """
        pieces = _PIECES.findall(text.lower())
        unknown = [piece for piece in pieces if piece not in self._numbers]
        if unknown:
            raise ValueError(f"the word {unknown[0]!r} is not in the vocabulary")
        return [self._numbers[piece] for piece in pieces]


def _byte_symbols() -> dict[int, str]:
    """Return a printable character for each byte, in the order of CLIP's vocabulary."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + rank) for rank, byte in enumerate(hidden)}


class BytePairVocabulary:
    """Byte pair encoding of CLIP (arXiv 2103.00020), for weights that were trained with it.

    Args:
        path: CLIP's `bpe_simple_vocab_16e6.txt.gz`, or the uncompressed text: a header line, then one merge per line.
        merges: number of merges to read from the file; the published 48 894 give 49 408 tokens.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line does not have two symbols.
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
                    raise ValueError(
                        f"{path}:{number}: {line!r} is not a merge; expected two symbols separated by a space"
                    )
        self._letters = _byte_symbols()
        letters = self._letters.values()
        symbols = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in pairs)]
        self.size = len(symbols) + 2
        self._numbers = {symbol: number for number, symbol in enumerate(symbols)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Return the token numbers of a text, without start and end."""
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
                # A joined symbol differs from best[0], so it cannot be the left symbol of another merge here.
                if joined and (joined[-1], symbol) == best:
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
            symbols = joined
        return [self._numbers[symbol] for symbol in symbols]
