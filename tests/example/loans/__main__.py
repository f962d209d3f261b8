"""Serves the library: ``python -m loans PORT``, on the database of ``LOANS_DATABASE_URL``."""

import os
import sys
from wsgiref.simple_server import make_server

from loans.app import create_app

with make_server("127.0.0.1", int(sys.argv[1]), create_app(os.environ["LOANS_DATABASE_URL"])) as server:
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()
