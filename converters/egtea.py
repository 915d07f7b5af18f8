"""EGTEA Gaze+: 86 videos of cooking; 24 labels per second, 3 splits.

    python converters/egtea.py action_annotation --dataset data/egtea --out data/egtea

Reads `train_split1.txt` to `test_split3.txt` (`OP01-R01-PastaSalad-1002316-1004005-F024051-F024101 action verb noun`:
session, times, first and last frame, numbers from 1) and `verb_idx.txt` or `action_idx.txt` (`<name> <number>`). Frames
outside all clips are `None`, the last class. The official splits divide clips, not sessions, so a session can have
clips in both parts. Frame labels need whole sessions: all clips of a session are used, and the session is assigned to
the part with most of its clips (test for ties).
"""

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vidseg.cli.converter import SegmentationConverter, known_seconds
from vidseg.cli.main import run_program

if TYPE_CHECKING:
    from vidseg.labels.segmentation_labels import SegmentationLabels

CLIP = re.compile(r"(?P<session>[^-]+-[^-]+-[^-]+)-\d+-\d+-F(?P<first>\d+)-F(?P<last>\d+)")


@dataclass
class Egtea(SegmentationConverter):
    """Write EGTEA Gaze+'s clip lists, or its frame labels, to the catalog."""

    rate: float = 24.0
    """Labels per second; the frame rate of the annotation is 24."""
    background: tuple[str, ...] = ("None",)
    """Background classes."""
    level: Literal["verb", "action"] = "verb"
    """Class definition: the verb, or the action (verb with nouns)."""

    def read(self) -> "SegmentationLabels":
        if (self.source / "groundTruth").is_dir():
            return super().read()
        from vidseg.labels.localization import LocalizedVideo, TimedLabel, frame_labels_of
        from vidseg.labels.published import official_file, official_files

        classes = self._classes(official_file(self.source, f"{self.level}_idx.txt"))
        clips: dict[str, dict[TimedLabel, None]] = {}
        splits: dict[str, list[str]] = {}
        for division in (1, 2, 3):
            parts: dict[str, Counter[str]] = {}
            for part in ("train", "test"):
                for path in official_files(self.source, f"{part}_split{division}.txt"):
                    for session, clip in self._clips(path, classes):
                        clips.setdefault(session, {})[clip] = None
                        parts.setdefault(session, Counter())[part] += 1
            for session, counts in sorted(parts.items()):
                part = "train" if counts["train"] > counts["test"] else "test"
                splits.setdefault(f"split{division}/{part}", []).append(session)
        videos = {session: LocalizedVideo(list(found)) for session, found in sorted(clips.items())}
        seconds = known_seconds(self.dataset)
        labels = frame_labels_of(
            videos, rate=self.rate, background="None", classes=classes, seconds=seconds, faults=self.faults
        )
        labels.splits = splits
        return labels

    @staticmethod
    def _classes(path: Path) -> list[str]:
        """Read class names by number from a file whose lines end with numbers from 1."""
        from vidseg.labels.official_lists import read_lines

        names: list[str] = []
        for line, text in read_lines(path):
            name, number = (["", *text.rsplit(maxsplit=1)])[-2:]
            if not name or number != str(len(names) + 1):
                raise ValueError(f"{path}:{line}: {text!r} is not of the form NAME {len(names) + 1}")
            names.append(name.strip())
        return names

    def _clips(self, path: Path, classes: list[str]) -> list:
        """Return (session, timed label) of each line."""
        from vidseg.labels.localization import TimedLabel
        from vidseg.labels.official_lists import read_lines

        found = []
        for line, text in read_lines(path):
            words = text.split()
            match = CLIP.fullmatch(words[0])
            column = 2 if self.level == "verb" else 1
            if not match or len(words) <= column or not words[column].isdecimal():
                raise ValueError(f"{path}:{line}: {text!r} is not of the form SESSION-MS-MS-FFIRST-FLAST ACTION VERB")
            if not 1 <= int(words[column]) <= len(classes):
                raise ValueError(f"{path}:{line}: {self.level} {words[column]} must be 1 to {len(classes)}")
            label = classes[int(words[column]) - 1]
            start, stop = int(match["first"]) / 24, (int(match["last"]) + 1) / 24
            times = self.faults.check(start, stop, place=f"{path}:{line}", label=label)
            if times is not None:
                found.append((match["session"], TimedLabel(label, *times)))
        return found


if __name__ == "__main__":
    sys.exit(run_program(Egtea))
