"""The loss, the optimizer, and the step that joins them."""
