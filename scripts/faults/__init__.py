"""Accidents that the project has to survive, a file for each kind; scripts/chaos.py runs them."""
