"""Probing: how well a label of a text is read from a few features, and from what else."""
