"""The tests: `unit` needs nothing, `integration` a PostgreSQL server, and `harness` is what they stand on."""
