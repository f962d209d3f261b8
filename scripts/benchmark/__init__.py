"""Measures the service: `scripts/bench`. Figures for people, never assertions; docs/performance.md explains them."""
