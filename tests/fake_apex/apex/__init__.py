"""Stands for NVIDIA apex in tests: what the library calls of it, doing what apex documents, on any device."""
