"""Published analyses as pure functions."""
