"""Weights: fetched, taken from other Macs, proven, placed, kept and removed."""
