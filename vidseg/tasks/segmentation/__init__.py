"""Temporal action segmentation of features: a class for each frame of a whole video."""
