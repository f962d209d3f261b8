"""What the tests stand on: the PostgreSQL server, isolation, base classes, the client."""

import warnings

with warnings.catch_warnings():
    # WebTest stands on WebOb, which imports a module that Python 3.13 dropped (setup.py brings it back there). Under
    # `-W error` the import would fail here, on the first time only.
    warnings.filterwarnings("ignore", "'cgi' is deprecated", DeprecationWarning)
    import webtest  # noqa: F401
