"""Qualifying an engine without a Mac: `fab upstream`."""
