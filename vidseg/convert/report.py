"""What a conversion says about itself: counts, a table, conversion_report.json."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import vidseg
from vidseg.convert.conversion import Outcome

__all__ = ["ConversionReport"]

_SHOWN = 20  # problems listed on the console; the report has them all


@dataclass
class ConversionReport:
    """The outcome of every video, in the order of their targets.

    Attributes:
        source: what was converted.
        root: the data set.
        outcomes: one for each video found.
        ignored: files beside the videos that are no videos (labels, pictures, hidden files).
        seconds: the whole run.
        stopped: why the run ended early, or None.
    """

    source: str
    root: str
    outcomes: list[Outcome] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def ok(self) -> bool:
        """Every video is there, and none is damaged."""
        return self.stopped is None and all(outcome.problem is None for outcome in self.outcomes)

    def count(self, state: str) -> int:
        """How many videos ended in `state`."""
        return sum(outcome.state == state for outcome in self.outcomes)

    def problems(self) -> list[Outcome]:
        """The videos that failed or are damaged."""
        return [outcome for outcome in self.outcomes if outcome.problem is not None]

    def as_dict(self) -> dict[str, object]:
        """Plain data, as in conversion_report.json."""
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
        """Write the report, replacing an older one in one step."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        temporary.replace(path)

    def __str__(self) -> str:
        """The summary that the command prints."""
        converted = [outcome for outcome in self.outcomes if outcome.state in {"converted", "recovered"}]
        frames = sum(outcome.frames for outcome in converted)
        size = sum(outcome.bytes for outcome in self.outcomes)
        total = sum(outcome.frames for outcome in self.outcomes)
        rows = [
            ("planned", f"{self.count('planned')} videos to convert"),
            ("converted", f"{self.count('converted')} videos, {frames} frames in {self.seconds:.1f} s"),
            ("kept", f"{self.count('kept')} videos that were there already"),
            ("recovered", f"{self.count('recovered')} damaged videos, as far as they go"),
            ("failed", f"{self.count('failed')} videos"),
            ("not started", f"{self.count('not started')} videos"),
            ("ignored", f"{len(self.ignored)} files that are no videos"),
        ]
        lines = [f"{name:12}{text}" for name, text in rows if not text.startswith("0 ")]
        if converted and self.seconds:
            lines.append(f"{'speed':12}{frames / self.seconds:.0f} frames/s")
        lines.append(f"{'data set':12}{self.root}: {total} frames, {size / 1e6:.1f} MB")
        lines += [f"planned: {plan.source} -> jpg/{plan.target}" for plan in self.outcomes if plan.state == "planned"]
        if other := sum(outcome.other_options for outcome in self.outcomes):
            lines.append(
                f"{'note':12}{other} kept databases were made with other options; --overwrite makes them again"
            )
        for outcome in self.problems()[:_SHOWN]:
            lines.append(f"{outcome.state}: {outcome.source}: {outcome.problem}")
        if len(self.problems()) > _SHOWN:
            lines.append(f"... and {len(self.problems()) - _SHOWN} more, see conversion_report.json")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)
