"""Debian's nginx with the configuration that Tandem ships, on loopback."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import ROOT
from tests.registry.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx: apt-get install nginx-light")

_MAIN = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/tandem.conf;
}}
"""


@contextmanager
def nginx(folder: Path, *replicas: int) -> Iterator[str]:
    """Yield the URL of an nginx before the replicas that listen on two ports of this machine."""
    folder.mkdir()
    port = free_port()
    shipped = (ROOT / "deploy" / "nginx" / "tandem.conf").read_text()
    for name, value in {
        "service-1:3000": f"127.0.0.1:{replicas[0]}",
        "service-2:3000": f"127.0.0.1:{replicas[1]}",
        "listen 80": f"listen 127.0.0.1:{port}",
    }.items():
        assert name in shipped
        shipped = shipped.replace(name, value)
    (folder / "tandem.conf").write_text(shipped)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
    process = subprocess.Popen(
        ["nginx", "-e", folder / "error.log", "-c", folder / "nginx.conf"], stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/metrics")
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
