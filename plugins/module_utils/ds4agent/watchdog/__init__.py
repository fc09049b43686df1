"""The memory watchdog: ends the engine before a Mac that runs out of memory freezes."""
