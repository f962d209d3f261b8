"""Password hashes, bearer tokens and signed cursors for pages."""
