"""The tests: `unit` needs nothing, `integration` a PostgreSQL server; `harness` is the kit, `support` the helpers."""
