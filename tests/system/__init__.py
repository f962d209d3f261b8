"""Tests with real processes: the command, its databases, a browser and the image."""
