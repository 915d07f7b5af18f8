"""Theme of the pictures that `vidseg plot` draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

__all__ = ["Themed"]


@dataclass(frozen=True, kw_only=True)
class Themed(ABC):
    """A command that draws pictures in a theme."""

    theme: Literal["light", "dark"] = "light"
    """Surface and text of pictures; a frame of a video has none."""

    def run(self) -> int:
        """Draw, and print the paths of the files."""
        from vidseg.plots import use_theme

        with use_theme(self.theme):
            return self.draw()

    @abstractmethod
    def draw(self) -> int:
        """Draw in the theme; returns the exit status."""
