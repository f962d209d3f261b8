"""The shop's own helpers for its tests: what the kit in `tests.harness` must not know."""
