"""One simulated Mac: as data, as a tree of files, and as running processes."""
