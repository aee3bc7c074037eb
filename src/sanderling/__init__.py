"""Sanderling: federated learning for microcontrollers and edge boards."""

__version__ = "0.1.0"
