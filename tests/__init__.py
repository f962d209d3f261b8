"""The tests: `unit` needs nothing, `integration` a PostgreSQL server, and `harness` is what they stand on."""

import warnings

with warnings.catch_warnings():
    # WebTest stands on WebOb, which imports a module that Python 3.13 dropped (setup.py brings it back there). Under
    # `-W error` its first import would fail, wherever that is; so it is here.
    warnings.filterwarnings("ignore", "'cgi' is deprecated", DeprecationWarning)
    import webtest  # noqa: F401
