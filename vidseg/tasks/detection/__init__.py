"""Temporal action detection: when does what happen in an untrimmed video."""
