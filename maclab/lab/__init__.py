"""The operator's side of a lab: `Lab`, and the parts that it is made of.

places, state: where everything lies, and what is remembered. session: the beginning and the end. macs: the
Macs themselves. network: their links. upstreams: the fake github.com and huggingface.co. faults: what is
made to go wrong. access: keys, known hosts and the inventory layer.
"""

from maclab.lab.facade import Lab
from maclab.lab.macs import MacStatus
from maclab.lab.state import HostSpec

__all__ = ["HostSpec", "Lab", "MacStatus"]
