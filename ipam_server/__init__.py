"""The IPAM server: networks, pools, allocation, the HTTP API and its client."""
