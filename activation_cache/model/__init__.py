"""A language model with named sites."""
