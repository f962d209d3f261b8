"""Measures the service: `scripts/bench`. docs/performance.md explains the figures."""
