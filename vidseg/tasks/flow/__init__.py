"""Optical flow: extraction of flow, motion vectors and residuals into databases."""
