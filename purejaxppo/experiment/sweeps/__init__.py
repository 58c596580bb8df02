"""Rows that differ: sweeps."""
