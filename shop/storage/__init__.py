"""How rows reach PostgreSQL: connections, compiled statements and migrations."""
