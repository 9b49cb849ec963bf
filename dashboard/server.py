"""The dashboard as a server: Streamlit's pages, and beside them pictures and votes over plain HTTP."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st

from dashboard import access, routes
from dashboard.queries.database import the_ratings
from naruto_core.errors import NarutoError
from naruto_core.settings import read_settings


@asynccontextmanager
async def running(_: st.App) -> AsyncIterator[None]:
    """Say at the start how the first person gets in, where that is not simply by coming."""
    try:
        if not access.listens_locally() and not the_ratings().reviewers():
            path = f"/enter/{access.first_token(read_settings().root)}"
            print(f"Nobody is registered: the first person opens this dashboard at {path}", file=sys.stderr, flush=True)
    except NarutoError as error:
        print(f"naruto: {error}", file=sys.stderr, flush=True)
    yield


app = st.App(Path(__file__).with_name("app.py"), lifespan=running, routes=routes.ROUTES)
