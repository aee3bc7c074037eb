"""A whole federation on one machine: real processes, a real broker, real data."""
