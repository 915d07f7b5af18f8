"""Optical flow: training of networks; extraction of flow, motion vectors and residuals into databases."""
