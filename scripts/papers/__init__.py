"""Reproductions: a script a paper, and what they share."""
