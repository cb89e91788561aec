"""Memory of the host, of its control groups, and of devices."""
