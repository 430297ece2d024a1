"""Toy Models of Superposition, a file a section."""
