"""Temporal action detection: which action happens when, in long videos."""
