"""Attention over whole rows on one device, and what lays such rows over a mesh."""
