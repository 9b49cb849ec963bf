"""The dashboard as a server: Streamlit's pages, and beside them pictures and votes over plain HTTP."""

from pathlib import Path

import streamlit as st

from dashboard.doors import entrance, judging, pictures

app = st.App(Path(__file__).with_name("app.py"), routes=[*entrance.ROUTES, *pictures.ROUTES, *judging.ROUTES])
