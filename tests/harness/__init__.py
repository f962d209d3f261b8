"""A test kit for Falcon, Peewee and PostgreSQL. It knows the project only through `tests.binding`."""

import signal
import warnings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs like that, and every process that a test starts would inherit it: Ctrl-C, which
    # some of them are there for, would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

with warnings.catch_warnings():
    # WebTest needs WebOb, which imports a module that Python 3.13 removed (the package legacy-cgi brings it back). Its
    # first import warns, which is an error under `-W error`; so it is here.
    warnings.filterwarnings("ignore", "'cgi' is deprecated", DeprecationWarning)
    import webtest  # noqa: F401
