"""What the tests stand on: the PostgreSQL server, isolation, base classes, the client."""
