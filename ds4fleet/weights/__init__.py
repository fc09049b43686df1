"""`fab prefetch` and `fab weights`: bring weights to Macs, and look after those that are there."""
