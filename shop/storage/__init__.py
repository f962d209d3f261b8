"""PostgreSQL: connections and their pool, timeouts, compiled statements and migrations."""
