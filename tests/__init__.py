"""The tests: `unit` needs nothing, `integration` a PostgreSQL server; `harness` is the kit, `support` the helpers."""

import os

# Hypothesis would import the plugins of other packages, pytest among them: 0.3 seconds of each run.
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
