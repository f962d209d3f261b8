"""Exports of orders to files: the formats, the files that are complete or absent, and the progress."""
