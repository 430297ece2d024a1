"""One file for each layout of another project."""
