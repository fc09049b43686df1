"""The gateway: one address for a team, with keys, fair shares and warm conversations."""
