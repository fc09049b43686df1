"""The operator's side of a lab: `Lab` and its parts."""

from maclab.lab.facade import HostSpec, Lab, MacStatus

__all__ = ["HostSpec", "Lab", "MacStatus"]
