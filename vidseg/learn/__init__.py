"""From a folder of videos to a tested network and a report, step by step, with every decision printed.

`LearnOptions` can be imported without torch, which keeps `--help` fast; `learn` is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from vidseg.learn.learn_options import LearnOptions

if TYPE_CHECKING:
    from vidseg.learn.learning import Learned, learn

__all__ = ["LearnOptions", "Learned", "learn"]


def __getattr__(name: str) -> Any:
    if name in {"Learned", "learn"}:
        from vidseg.learn import learning

        return getattr(learning, name)
    raise AttributeError(f"module 'vidseg.learn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
