"""Believable data, for the tests and for scripts/seed_demo.py (extra "demo")."""
