"""The command `shop` in the process of the tests; `tests.support.live` runs it in a process of its own."""

import contextlib
import io
import os
import signal
from unittest import mock

from shop import cli


def call_shop(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command; return its exit status and what it printed on stdout and stderr.

    Args:
        arguments: The arguments after `shop`.
        environment: All `SHOP_*` variables that it sees.
    """
    out, err = io.StringIO(), io.StringIO()
    # Some commands end in the same way after SIGTERM as after Ctrl-C.
    before = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.dict(os.environ, environment | {"PATH": os.environ["PATH"]}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            # argparse ends the process if it cannot parse the arguments.
            status = int(str(ended.code))
        finally:
            signal.signal(signal.SIGTERM, before)
    return status, out.getvalue(), err.getvalue()
