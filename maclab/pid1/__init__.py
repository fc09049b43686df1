"""Process 1 of a Mac: its event loop, launchd over real processes, boot, sleep and shutdown."""
