"""The network between the Macs, the fake upstreams and the operator."""
