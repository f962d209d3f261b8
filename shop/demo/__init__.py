"""Realistic data for the tests and scripts/seed_demo.py (extra ``demo``)."""
