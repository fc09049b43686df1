"""BSD flavour: wrappers that take macOS options and refuse what only GNU has, over the host's own tools."""
