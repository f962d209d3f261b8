"""The HTTP layer: it validates requests, calls the domain, and builds responses."""
