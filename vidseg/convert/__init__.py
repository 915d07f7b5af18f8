"""Convert video files, folders of JPEG frames and older databases to frame databases.

`ConvertOptions` can be imported without torch, which keeps `--help` fast; other names are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from vidseg.convert.convert_options import ConvertOptions

if TYPE_CHECKING:
    from vidseg.convert.conversion_lock import TargetError
    from vidseg.convert.conversion_report import ConversionReport
    from vidseg.convert.run import convert_videos

__all__ = ["ConversionReport", "ConvertOptions", "TargetError", "convert_videos"]


def __getattr__(name: str) -> Any:
    if name == "ConversionReport":
        from vidseg.convert.conversion_report import ConversionReport

        return ConversionReport
    if name in {"TargetError", "convert_videos"}:
        from vidseg.convert import run

        return getattr(run, name)
    raise AttributeError(f"module 'vidseg.convert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
