"""Ends with exit code 0 if the service in this container is ready; `/readyz` says so.

Docker runs it every few seconds, so it imports no more than it needs. `tandem-service` writes the port into
`LISTENING`.
"""

import os
import socket
import sys

LISTENING = "/tmp/tandem-service.port"  # noqa: S108  # in a container, where this is the only writable folder
WITHIN_S = 4

try:
    if os.path.exists(LISTENING):  # noqa: PTH110  # without pathlib it starts in half the time
        with open(LISTENING) as file:  # noqa: PTH123
            port = int(file.read())
    else:
        port = int(os.environ.get("PORT") or os.environ.get("BENTOML_PORT") or 3000)
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = connection.recv(64).split(b"\r\n")[0].decode("ascii", "replace")
except (OSError, ValueError) as error:
    sys.exit(f"the service can't be asked: {error}")
print(status)  # `docker inspect` shows it
sys.exit(0 if " 200 " in f"{status} " else 1)
