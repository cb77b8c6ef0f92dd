"""Decoding with budget forcing: ids in, ids out."""
