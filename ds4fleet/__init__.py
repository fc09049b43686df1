"""The controller's library of ds4-fleet: plans, inventory, tunnels, reports and the simulated fleet."""

__version__ = "0.2.0"
