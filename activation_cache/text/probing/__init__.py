"""Labelled texts for probing: built from installed text, or read from a user's file."""
