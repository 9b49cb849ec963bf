"""Try a prompt: asks the HTTP service, when one is running (`NARUTO_SERVICE`), in the words of OpenAI's images API."""

import base64
import binascii

import httpx2
import streamlit as st

from naruto_core.settings import read_settings

_PATIENCE = 300.0  # seconds: a picture at 1024 pixels takes a T4 half a minute, and others may wait before it


def show() -> None:
    st.title("Playground")
    service = read_settings().service
    if not service:
        st.info("No service is configured. Start one, say where it is in NARUTO_SERVICE, and open this page again.")
        return
    try:
        models = _models(service)
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        st.error("The service does not answer. Is it running? Asked at:")
        st.text(service)
        return
    with st.form("playground"):
        prompt = st.text_area("Prompt", max_chars=2000)
        one, two, three = st.columns(3)
        model = one.selectbox("Model", models)
        seed = two.number_input("Seed", 0, 2**31 - 1, 7)
        count = three.number_input("How many", 1, 4, 1, help="Seeds count on from the first.")
        adapters = st.multiselect("Adapters", [name for name in models if name != "base"])
        weight = st.slider("Weight of the adapters", 0.0, 1.5, 1.0, 0.05)
        if not st.form_submit_button("Draw"):
            return
    if not prompt.strip():
        st.error("Write a prompt first.")
        return
    request: dict[str, object] = {
        "prompt": prompt, "model": model, "n": int(count), "seed": int(seed), "response_format": "b64_json",
    }  # fmt: skip
    if adapters:
        request["adapters"] = [{"name": name, "weight": weight} for name in adapters]
    _draw(service, request, prompt)


def _key() -> dict[str, str]:
    key = read_settings().service_key.get_secret_value()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _models(service: str) -> list[str]:
    answer = httpx2.get(f"{service}/v1/models", headers=_key(), timeout=5).raise_for_status().json()
    return [str(model["id"]) for model in answer["data"]]


def _draw(service: str, request: dict[str, object], prompt: str) -> None:
    try:
        with st.spinner("Drawing …", show_time=True):
            answer = httpx2.post(f"{service}/v1/images/generations", json=request, headers=_key(), timeout=_PATIENCE)
        said = answer.json()
        if answer.status_code >= 400:
            st.error("The service refused:")
            st.text(str(said["error"]["message"]))
            return
        pictures = [base64.b64decode(one["b64_json"], validate=True) for one in said["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError, binascii.Error):
        st.error("The service did not answer with a picture; its log says why.")
        return
    if warning := said.get("warning"):
        st.warning("The model does not read all of this:")
        st.text(str(warning))
    for column, picture in zip(st.columns(len(pictures)), pictures, strict=True):
        column.image(picture, width="stretch", alt=prompt)
