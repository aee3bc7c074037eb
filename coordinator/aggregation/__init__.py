"""Aggregation rules: from a round's reports to one change."""
