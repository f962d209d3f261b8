"""Asks the service in this container whether it is ready: exit status 0 or 1, and one line that says why.

It runs every few seconds for the life of the container, as `python -I -S`, so it imports the least that can ask. To
load an HTTP client of the standard library would take longer than the whole of this.
"""

import os
import socket
import sys

# Seconds; the limit of the image's HEALTHCHECK is longer, so that the line below is what one gets to see.
LIMIT = 4
REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> int:
    """Ask, print the status line of the answer or what went wrong, and return the exit status."""
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("SHOP_PORT") or 8000)), LIMIT) as connection:
            connection.sendall(REQUEST)
            with connection.makefile("rb") as answer:
                status = answer.readline(1000).decode("latin-1").strip()
    except OSError as error:
        print(error)
        return 1
    print(status)
    return 0 if status.split()[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
