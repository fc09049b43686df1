"""Releases of the engine: built, proven, asked whether they serve what was planned."""
