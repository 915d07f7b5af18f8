"""Temporal action segmentation of streams: a class for each frame, window by window, from pixels."""
