"""What data-parallel training sends over the network: measured on several hosts, and modelled."""
