"""Conversion: video files, folders of JPEG frames and older databases become frame databases."""

from vidseg.convert.options import ConvertOptions
from vidseg.convert.report import ConversionReport
from vidseg.convert.run import TargetError, convert_videos

__all__ = ["ConversionReport", "ConvertOptions", "TargetError", "convert_videos"]
