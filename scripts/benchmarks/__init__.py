"""The measurements of scripts/bench.py, a file for each part of the project."""
