"""Examples, their labels, and the batches that they are laid into."""
