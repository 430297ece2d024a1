"""Toy Models of Superposition, section by section."""
