"""The HTTP service draws what the Painter draws, for OpenAI's own client, whatever else is in the batch."""

import base64
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import httpx2
import pytest
from PIL import Image

from naruto_core import sdxl
from naruto_core.artifacts import Layout
from naruto_core.fusion import ScaledAdapter, load_adapters
from naruto_core.generation import Job, Painter
from naruto_core.store.database import open_database
from naruto_core.store.promotions import CHAMPION
from tests.deployments.serving import Runs, Serving, serving, two_runs
from tests.tasks.recorded_run import CPU

if TYPE_CHECKING:  # it takes a second, in every process that collects tests
    import openai


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with two_runs(tmp_path_factory.mktemp("served")) as two:
        yield two


@pytest.fixture(scope="module")
def service(runs: Runs) -> Iterator[Serving]:
    with serving(runs.home, most_steps=60, most_pictures=4, longest_queue=40, determinism="strict") as running:
        yield running


@pytest.fixture
def client(service: Serving) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def pixels(response: httpx2.Response, number: int = 0) -> bytes:
    assert response.status_code == 200, response.text
    return decoded(response.json()["data"][number]["b64_json"])


def decoded(text: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True))).tobytes()


def test_openais_client_gets_the_painters_pictures_and_their_seeds(client: "openai.OpenAI", runs: Runs):
    recipe = runs.recorded.recipe
    pipeline = sdxl.load_pipeline(recipe.model, "bf16", CPU)
    folder = (runs.home / runs.recorded.adapters[0].path).parent
    load_adapters(pipeline, [ScaledAdapter(folder, recipe.fusion.lora_scale)])
    expected = Painter(pipeline, recipe.generation).paint(
        [Job("a person in the rain", 7), Job("a person in the rain", 8)]
    )
    reply = client.images.generate(
        prompt="a person in the rain", model=runs.first, n=2, size="64x64", quality="hd", user="u1",
        response_format="b64_json", extra_body={"seed": 7},
    )  # fmt: skip
    assert reply.data
    assert [decoded(image.b64_json or "") for image in reply.data] == [picture.tobytes() for picture in expected]
    assert [image.seed for image in reply.data] == [7, 8]  # type: ignore[attr-defined]
    assert [model.id for model in client.models.list()] == [runs.first, runs.second, "base"]
    assert client.models.retrieve(runs.second).id == runs.second
    from openai import NotFoundError

    with pytest.raises(NotFoundError):
        client.models.retrieve("gpt-image-1")


def test_a_picture_is_the_same_alone_and_in_a_batch(service: Serving, runs: Runs):
    def ask(seed: int) -> bytes:
        model = (runs.first, "base", runs.second)[seed % 3]
        return pixels(service.ask(prompt=f"number {seed}", model=model, seed=seed, steps=2 + seed % 4))

    alone = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as crowd:
        together = list(crowd.map(ask, range(6)))
    assert together == alone
    assert len(set(alone)) == 6


def test_queued_pictures_share_a_batch_and_one_base_model_serves_all_adapters(service: Serving, runs: Runs):
    def metric(name: str) -> float:
        lines = httpx2.get(f"{service.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = metric("naruto_steps_total")
    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda seed: pixels(service.ask(prompt="x", seed=seed, steps=12)), range(8)))
    assert metric("naruto_steps_total") - before < 8 * 12 * 0.6
    assert metric('naruto_model_load_seconds_count{what="base"}') == 1


def test_a_promotion_takes_effect_at_once(service: Serving, runs: Runs):
    assert service.ask(prompt="x", model="champion").status_code == 404
    with open_database(f"sqlite:///{runs.home / 'naruto.db'}").ratings as ratings:
        for name in (runs.first, runs.second):
            ratings.promote(CHAMPION, name, "Ada", "better", datetime.now(UTC), {}, Layout(runs.home))
            response = service.ask(prompt="x", model="champion", seed=1)
            assert response.json()["model"] == name
            assert pixels(response) == pixels(service.ask(prompt="x", model=name, seed=1))


def test_adapters_are_added_at_their_weights(service: Serving, runs: Runs):
    half = service.ask(prompt="a forest", seed=2, model="base", adapters=[{"name": runs.first, "weight": 0.5}])
    assert pixels(half) == pixels(service.ask(prompt="a forest", seed=2, model=runs.second))
    twice = service.ask(prompt="x", model=runs.first, adapters=[{"name": runs.first}])
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "adapters")


def test_an_asynchronous_job_reports_its_steps_and_ends_with_urls_of_its_pictures(service: Serving):
    body = {"prompt": "a cat", "n": 2, "steps": 12, "response_format": "url"}
    url = f"{service.url}/v1/images/generations"
    first = httpx2.post(url, json=body, headers={"Prefer": "respond-async"})
    assert first.status_code == 202
    with httpx2.stream("GET", service.url + first.headers["Location"] + "/events", timeout=60) as stream:
        events = [line for line in stream.iter_lines() if line]
    assert events[-2] == "event: end"
    states = [json.loads(line.removeprefix("data: ")) for line in events if line.startswith("data")]
    assert len(states) > 2
    assert [state["steps_done"] for state in states] == sorted(state["steps_done"] for state in states)
    assert states[-1]["status"] == "done"
    picture = states[-1]["result"]["data"][1]["url"]
    assert picture.startswith(f"{service.url}/v1/pictures/")
    assert Image.open(io.BytesIO(httpx2.get(picture).content)).size == (64, 64)
    for forged in (picture[:-1] + ("0" if picture[-1] != "0" else "1"), picture.replace("expires=", "expires=9")):
        assert httpx2.get(forged).status_code == 404
    later = httpx2.get(service.url + first.headers["Location"]).json()
    assert later["result"]["data"][0]["seed"] + 1 == later["result"]["data"][1]["seed"]


def test_the_urls_of_pictures_begin_with_the_services_own_address_whatever_the_header_host_says(
    service: Serving, monkeypatch: pytest.MonkeyPatch
):
    body = {"prompt": "a cat", "steps": 2, "response_format": "url"}

    def url() -> str:
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        reply = httpx2.post(f"{service.url}/v1/images/generations", json=body, headers=headers, timeout=60)
        return reply.json()["data"][0]["url"]

    assert url().startswith(f"{service.url}/v1/pictures/")
    elsewhere = httpx2.get(f"{service.url}/v1/models/", headers={"Host": "evil.example"})
    assert elsewhere.status_code == 404  # no redirect to that host
    public = service.state.options.model_copy(update={"public_url": "https://pictures.example/naruto/"})
    monkeypatch.setattr(service.state, "options", public)
    assert url().startswith("https://pictures.example/naruto/v1/pictures/")


def test_a_request_that_is_sent_again_with_its_idempotency_key_is_the_same_job(service: Serving):
    url, key = f"{service.url}/v1/images/generations", {"Idempotency-Key": "order 7"}
    body = {"prompt": "a cat", "steps": 8}
    impatient = httpx2.post(url, json=body, headers=key | {"Prefer": "respond-async"})
    with ThreadPoolExecutor(2) as crowd:  # while it is drawn
        replies = list(crowd.map(lambda _: httpx2.post(url, json=body, headers=key, timeout=60), range(2)))
    replies.append(httpx2.post(url, json=dict(reversed(body.items())), headers=key))  # when it is done
    assert [reply.status_code for reply in replies] == [200] * 3
    assert len({reply.text for reply in replies}) == 1  # the seed was drawn once
    job = httpx2.get(service.url + impatient.headers["Location"]).json()
    assert (job["status"], job["result"]["data"][0]["seed"]) == ("done", replies[0].json()["data"][0]["seed"])

    other = httpx2.post(url, json=body | {"steps": 9}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    streamed = httpx2.post(url, json=body | {"stream": True}, headers=key)
    assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "Idempotency-Key")
    name = httpx2.get(job["result"]["data"][0]["url"]).url.path.rpartition("/")[2]
    (service.state.settings.root / "service" / "pictures" / name).unlink()
    gone = httpx2.post(url, json=body, headers=key)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "pictures_expired")


def test_a_cancelled_job_and_a_disconnected_client_leave_the_batch(service: Serving):
    url = f"{service.url}/v1/images/generations"
    reply = httpx2.post(url, json={"prompt": "a", "n": 4, "steps": 60}, headers={"Prefer": "respond-async"})
    job = service.url + reply.headers["Location"]
    assert httpx2.delete(job).json()["status"] == "cancelled"
    with pytest.raises(httpx2.TimeoutException):
        service.ask(wait=0.5, prompt="gone", n=4, steps=60)
    started = time.monotonic()
    pixels(service.ask(prompt="x", seed=1, steps=2))
    assert time.monotonic() - started < 5  # eight pictures of 60 steps would take longer
    states = [job.state for job in service.state.job_store.since(datetime(2026, 1, 1, tzinfo=UTC), 3)]
    assert "cancelled" in states[1:]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "  "}, 400, "prompt"),
        ({"prompt": "x" * 100_000}, 400, "prompt"),
        ({"prompt": "\ud800"}, 400, "prompt"),
        ({"prompt": 5}, 400, "prompt"),
        ({}, 400, "prompt"),
        ({"prompt": "x", "model": "gpt-image-1"}, 404, "model"),
        ({"prompt": "x", "model": "../../etc/passwd"}, 404, "model"),
        ({"prompt": "x", "size": "63x64"}, 400, "size"),
        ({"prompt": "x", "size": "1024x1024"}, 400, "size"),
        ({"prompt": "x", "size": "big"}, 400, "size"),
        ({"prompt": "x", "n": 0}, 400, "n"),
        ({"prompt": "x", "n": 99}, 400, "n"),
        ({"prompt": "x", "n": True}, 400, "n"),
        ({"prompt": "x", "steps": 61}, 400, "steps"),
        ({"prompt": "x", "seed": -1}, 400, "seed"),
        ({"prompt": "x", "seed": 2**70}, 400, "seed"),
        ({"prompt": "x", "guidance": float("nan")}, 400, "guidance"),
        ({"prompt": "x", "guidance": 1e9}, 400, "guidance"),
        ({"prompt": "x", "adapters": [{"name": "nobody"}]}, 404, "adapters"),
        ({"prompt": "x", "colour": "red"}, 400, "colour"),
        ({"prompt": "x", "negative_prompt": "y" * 5000}, 400, "negative_prompt"),
    ],
)
def test_an_invalid_parameter_is_rejected_in_openais_form_and_named(
    service: Serving, fields: dict[str, object], status: int, param: str
):
    url = f"{service.url}/v1/images/generations"
    response = httpx2.post(url, content=json.dumps(fields), headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "not_found_error")


def test_an_invalid_body_is_rejected(service: Serving, client: "openai.OpenAI"):
    url = f"{service.url}/v1/images/generations"
    assert httpx2.post(url, content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert httpx2.post(url, content=b"prompt=x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx2.post(url, content=b"[" * 10**6, headers={"Content-Type": "application/json"}).status_code == 413
    from openai import BadRequestError

    with pytest.raises(BadRequestError) as refused:
        client.images.generate(prompt="x", n=99)
    assert refused.value.param == "n"


def test_pictures_that_were_sent_in_the_reply_are_not_kept_in_memory(service: Serving):
    start, deadline = datetime.now(UTC), time.monotonic() + 120
    pixels(service.ask(prompt="x", steps=1))
    while not (jobs := service.state.job_store.since(start)) or jobs[0].finished_at is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the reply does not wait until the end of the job is recorded
    (last,) = jobs
    assert service.state.jobs.get(last.id) is None
    job = httpx2.get(f"{service.url}/v1/jobs/{last.id}").json()
    assert (job["status"], job["steps_done"], "result" in job) == ("done", 1, False)


def test_metrics_contain_no_prompt(service: Serving):
    service.ask(prompt="a very secret word", steps=1)
    text = httpx2.get(f"{service.url}/metrics").text
    assert "secret" not in text
    assert 'naruto_requests_total{route="/v1/images/generations",status="200"}' in text


def test_a_reply_warns_of_a_prompt_that_is_too_long_for_the_model(service: Serving):
    words = "red " * 80
    first, second = (service.ask(prompt=f"{words}{colour}", seed=7, steps=1) for colour in ("hair", "eyes"))
    assert pixels(first) == pixels(second)  # the end of the prompt has no effect
    warning = "prompt: 81 tokens, and the text encoders read 46: word 47 of 81 and what follows has no effect"
    assert first.json()["warning"] == first.headers["X-Naruto-Warning"] == warning
    both = service.ask(prompt="a cat", negative_prompt=words, steps=1)
    assert both.json()["warning"].startswith("negative_prompt: 80 tokens")
    short = service.ask(prompt="a cat", steps=1)
    assert "warning" not in short.json()
    assert "X-Naruto-Warning" not in short.headers
    url = f"{service.url}/v1/images/generations"
    later = httpx2.post(
        url, json={"prompt": words + "hair", "steps": 1}, headers={"Prefer": "respond-async"}, timeout=60
    )
    assert later.json()["warning"] == later.headers["X-Naruto-Warning"] == warning
    assert httpx2.get(service.url + later.headers["Location"]).json()["warning"] == warning
