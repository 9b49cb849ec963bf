"""The playground: send a prompt to the HTTP service (`NARUTO_SERVICE`), which speaks OpenAI's images API."""

import base64
import binascii

import httpx2
import streamlit as st

from naruto_core.settings import read_settings

_TIMEOUT = 300.0  # seconds: a picture at 1024 pixels takes half a minute on a T4, and requests may wait in the queue


def show() -> None:
    service = read_settings().service
    if not service:
        st.info("No service is configured. Start one, set NARUTO_SERVICE to its address and restart the dashboard.")
        return
    try:
        models = _models(service)
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        st.error("The service does not answer. Is it running? Its address is:")
        st.text(service)
        return
    with st.form("playground"):
        prompt = st.text_area("Prompt", max_chars=2000)
        left, middle, right = st.columns(3)
        model = left.selectbox("Model", models)
        seed = middle.number_input("Seed", 0, 2**31 - 1, 7)
        count = right.number_input("Number of pictures", 1, 4, 1, help="Each further picture has the next seed.")
        adapters = st.multiselect("Adapters", [name for name in models if name != "base"])
        weight = st.slider("Weight of the adapters", 0.0, 1.5, 1.0, 0.05)
        if not st.form_submit_button("Generate"):
            return
    if not prompt.strip():
        st.error("Enter a prompt first.")
        return
    request: dict[str, object] = {
        "prompt": prompt, "model": model, "n": int(count), "seed": int(seed), "response_format": "b64_json",
    }  # fmt: skip
    if adapters:
        request["adapters"] = [{"name": name, "weight": weight} for name in adapters]
    _generate(service, request, prompt)


def _auth_headers() -> dict[str, str]:
    key = read_settings().service_key.get_secret_value()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _models(service: str) -> list[str]:
    body = httpx2.get(f"{service}/v1/models", headers=_auth_headers(), timeout=5).raise_for_status().json()
    return [str(model["id"]) for model in body["data"]]


def _generate(service: str, request: dict[str, object], prompt: str) -> None:
    try:
        with st.spinner("Generating …", show_time=True):
            response = httpx2.post(
                f"{service}/v1/images/generations", json=request, headers=_auth_headers(), timeout=_TIMEOUT
            )
        body = response.json()
        if response.status_code >= 400:
            st.error("The service refused the request:")
            st.text(str(body["error"]["message"]))
            return
        pictures = [base64.b64decode(item["b64_json"], validate=True) for item in body["data"]]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError, binascii.Error):
        st.error("The service did not return a picture. See its log for the reason.")
        return
    if warning := body.get("warning"):
        st.warning("The model does not read the whole prompt:")
        st.text(str(warning))
    for column, picture in zip(st.columns(len(pictures)), pictures, strict=True):
        column.image(picture, width="stretch", alt=prompt)
