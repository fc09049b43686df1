"""Which Mac a request goes to, and when: pure, for the gateway and for an endpoint of `fab tunnel`."""
