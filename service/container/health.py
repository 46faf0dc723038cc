"""Ends with exit code 0 if the service in this container is ready; `/readyz` says so.

Run by Docker every few seconds, so it imports nothing but sockets. Argument: the file with the service's port.
"""

import socket
import sys

WITHIN_S = 4

try:
    with open(sys.argv[1]) as file:  # noqa: PTH123  # without pathlib it starts in half the time
        port = int(file.read())
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = connection.recv(64).split(b"\r\n")[0].decode("ascii", "replace")
except (OSError, ValueError) as error:
    sys.exit(f"the service can't be asked: {error}")
print(status)  # noqa: T201  # `docker inspect` shows it
sys.exit(0 if " 200 " in f"{status} " else 1)
