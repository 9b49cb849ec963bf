"""What it means when a model hub does not do what it is asked: may it pass, how long to wait, which sentence to say.

Sentences never repeat the query of an address: the hub signs its upload addresses there.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SIGNED = re.compile(r"(https?://[^\s?]+)\?\S+")
_REFUSED = {
    401: "it does not accept the token in HF_TOKEN (401)",
    403: "the token in HF_TOKEN may not write there (403)",
    404: "it knows no such repository, or HF_TOKEN may not see it (404)",
}


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """Why something failed, in words; `pause` is for how many seconds the hub asks to be left alone."""

    why: str
    may_pass: bool = False
    pause: float | None = None


def understand(error: BaseException) -> HubAnswer:
    """What `error`, raised by the hub's client, or the cause behind it, says."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            told = cause.server_message or str(cause)
            return _answered(cause.response.status_code, cause.response.headers, told)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubAnswer("HF_HUB_OFFLINE is set: unset it, or set publish.push_to_hub=false")
        if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            # its own words would repeat the header with the token
            return HubAnswer("the request cannot be sent: HF_TOKEN or HF_ENDPOINT holds what cannot stand there")
        if isinstance(cause, httpx2.TransportError):
            return HubAnswer(f"it cannot be reached ({type(cause).__name__})", may_pass=True)
        if isinstance(cause, json.JSONDecodeError):
            return HubAnswer("it did not answer as a hub does", may_pass=True)
        cause = cause.__cause__
    return HubAnswer(_one_line(str(error) or type(error).__name__))


def _answered(status: int, headers: Mapping[str, str], told: str) -> HubAnswer:
    pause, passing = _asked_pause(headers), status in _PASSING
    # what passes is often told by a server in between, in HTML
    why = _REFUSED.get(status) or (f"it answered {status}" if passing else f"it answered {status}: {_one_line(told)}")
    if pause:
        why += f", and asks for {pause:.0f} s of rest"
    return HubAnswer(why, passing, pause)


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After`, which is a number or a date, or from the hub's own `RateLimit: "api";r=0;t=55`."""
    told = headers.get("retry-after", "").strip()
    if told.isdigit():
        return float(told)
    if told:
        try:
            return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    spent = re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None


def _one_line(text: str) -> str:
    return _SIGNED.sub(r"\1", " ".join(text.split()))[:300]
