"""A stream as it arrives: sources (files, pipes, cameras) and sessions with saved state."""
