"""The ground that both packages stand on. Imports nothing of either."""
