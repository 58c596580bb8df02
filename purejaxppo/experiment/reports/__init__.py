"""Compare runs and sweeps."""
