"""Optical flow: the motion of each pixel between two pictures."""
