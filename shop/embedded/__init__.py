"""The PostgreSQL server that comes with pip, for a developer's machine."""
