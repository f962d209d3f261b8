"""What needs no database and no server."""
