"""The dashboard as a server: Streamlit's pages, and the HTTP routes for pictures and votes."""

import gc
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread

import streamlit as st

from dashboard import access, routes
from dashboard.queries.database import database
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings


@asynccontextmanager
async def running(_: st.App) -> AsyncIterator[None]:
    """Prepare the server's sockets and pages; write the link for the first person into the log where it is needed.

    It is needed where other machines reach the dashboard and nobody is registered.
    """
    send_without_delay()
    Thread(target=import_pages, daemon=True).start()  # the first visitor waits less
    try:
        if not access.listens_locally() and not database().ratings.has_admin():
            path = f"/enter/{access.first_admin_token(read_settings().root)}"
            print(f"Nobody is registered: the first person opens this dashboard at {path}", file=sys.stderr, flush=True)
    except NarutoError as error:
        print(f"naruto: {error}", file=sys.stderr, flush=True)
    yield


def send_without_delay() -> None:
    """Send small packets at once on every connection that is accepted from now on (TCP_NODELAY, inherited).

    Streamlit opens the listening socket without naming its protocol, so asyncio does not know that it is TCP. Without
    this option the body of an answer waits 40 ms, until the browser acknowledges the header.
    """
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # the folder's own descriptor is closed already
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def import_pages() -> None:
    """Import the pages, and what Streamlit imports at the first table and the first button.

    Streamlit collects garbage after each run of a page. What was imported stays, so it is left out of that from now on:
    to look through it took longer than most pages. For the same reason Python itself collects seldom: while a page
    reads 50,000 votes, it looked through them again and again, a quarter of the time of the page.
    """
    for module in ("dashboard.app", "pandas", "pandas.io.formats.style", "streamlit.emojis"):
        import_module(module)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


app = st.App(Path(__file__).with_name("app.py"), lifespan=running, routes=routes.ROUTES)
