"""HTTP, and nothing else: what comes in is checked here, what goes out is shaped here."""
