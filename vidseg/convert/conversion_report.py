"""Report of a conversion: counts, console summary and conversion_report.json."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import vidseg
from vidseg.convert.conversion import Outcome
from vidseg.frames.whole_file import write_text
from vidseg.labels.counting import counted

__all__ = ["ConversionReport"]

_SHOWN = 20  # problems printed on the console; conversion_report.json lists all


@dataclass
class ConversionReport:
    """Outcome of every video of a conversion, ordered by target.

    Attributes:
        source: source of the conversion.
        root: folder of the data set.
        outcomes: one for each video found.
        ignored: files in the source that are not videos (labels, pictures, hidden files).
        seconds: duration of the run.
        stopped: reason for an early stop, or None.
    """

    source: str
    root: str
    outcomes: list[Outcome] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every video is converted and undamaged."""
        return self.stopped is None and all(outcome.problem is None for outcome in self.outcomes)

    def count(self, state: str) -> int:
        """Return the number of videos in the given state."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def problems(self) -> list[Outcome]:
        """Return the outcomes of videos that failed or are damaged."""
        return [outcome for outcome in self.outcomes if outcome.problem is not None]

    def as_dict(self) -> dict[str, object]:
        """Return the content of conversion_report.json."""
        counts = Counter(outcome.state for outcome in self.outcomes)
        return {
            "tool": f"vidseg {vidseg.__version__}",
            "source": self.source,
            "root": self.root,
            "ok": self.ok,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "counts": dict(sorted(counts.items())),
            "frames": sum(outcome.frames for outcome in self.outcomes),
            "bytes": sum(outcome.bytes for outcome in self.outcomes),
            "videos": [outcome.as_dict() for outcome in self.outcomes],
            "ignored": self.ignored,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, replacing an existing file atomically."""
        write_text(path, json.dumps(self.as_dict(), indent=1) + "\n")

    def __str__(self) -> str:
        """Return the console summary."""
        converted = [outcome for outcome in self.outcomes if outcome.state in {"converted", "recovered"}]
        frames = sum(outcome.frames for outcome in converted)
        size = sum(outcome.bytes for outcome in self.outcomes)
        total = sum(outcome.frames for outcome in self.outcomes)
        rows = [
            ("planned", f"{counted(self.count('planned'), 'video')} to convert"),
            (
                "converted",
                f"{counted(self.count('converted'), 'video')}, {counted(frames, 'frame')} in {self.seconds:.1f} s",
            ),
            ("kept", f"{counted(self.count('kept'), 'video')} converted earlier"),
            ("recovered", f"{counted(self.count('recovered'), 'damaged video')}, decodable frames kept"),
            ("failed", counted(self.count("failed"), "video")),
            ("not started", counted(self.count("not started"), "video")),
            ("ignored", counted(len(self.ignored), "non-video file")),
        ]
        lines = [f"{name:12}{text}" for name, text in rows if not text.startswith("0 ")]
        if converted and self.seconds:
            lines.append(f"{'speed':12}{frames / self.seconds:.0f} frames/s")
        lines.append(f"{'data set':12}{self.root}: {counted(total, 'frame')}, {size / 1e6:.1f} MB")
        lines += [f"planned: {plan.source} -> jpg/{plan.target}" for plan in self.outcomes if plan.state == "planned"]
        if other := sum(outcome.other_options for outcome in self.outcomes):
            lines.append(
                f"{'note':12}{counted(other, 'kept database')} made with other options; --overwrite converts again"
            )
        for outcome in self.problems()[:_SHOWN]:
            lines.append(f"{outcome.state}: {outcome.source}: {outcome.problem}")
        if len(self.problems()) > _SHOWN:
            lines.append(f"... and {len(self.problems()) - _SHOWN} more in conversion_report.json")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)
