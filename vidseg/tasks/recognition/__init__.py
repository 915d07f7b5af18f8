"""Action recognition: one class for each clip."""
