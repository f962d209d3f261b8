"""The tests: `unit` needs nothing, `integration` a PostgreSQL server, and `harness` is what they stand on."""

import signal
import warnings

from tests.harness.measured_embedded_supervisor import take_its_place

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs like that, and every process that a test starts would inherit it: Ctrl-C, which
    # some of them are there for, would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

with warnings.catch_warnings():
    # WebTest stands on WebOb, which imports a module that Python 3.13 dropped (setup.py brings it back there). Under
    # `-W error` its first import would fail, wherever that is; so it is here.
    warnings.filterwarnings("ignore", "'cgi' is deprecated", DeprecationWarning)
    import webtest  # noqa: F401

take_its_place()
