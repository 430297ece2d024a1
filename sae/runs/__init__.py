"""From settings to a run folder, and back from a saved dictionary to its numbers."""
