"""Model and text to activations, in shuffled batches."""
