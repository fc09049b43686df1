"""Other weights or another engine, region by region: planned, switched, watched, journaled, reported."""
