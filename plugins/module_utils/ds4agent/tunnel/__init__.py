"""A tunnel to an engine and the HTTP endpoint in front of it, for the operator and for jump Macs."""
