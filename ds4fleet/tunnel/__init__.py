"""Tunnels to the engines: supervised ssh children, a failover endpoint, and what people see of them."""
