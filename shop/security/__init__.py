"""Password hashes, bearer tokens and signed cursors."""
