"""Dictionaries inside a running model. `sae.attach` is the door to it."""

from sae.inside.inside import AttachableModel, Inside

__all__ = ["AttachableModel", "Inside"]
