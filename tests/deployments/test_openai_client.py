"""The images API as the `openai` package's present clients use it, against the service's default settings."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image

from tests.deployments.serving import Runs, Serving, serving, two_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with two_runs(tmp_path_factory.mktemp("openai")) as two:
        yield two


@pytest.fixture(scope="module")
def service(runs: Runs) -> Iterator[Serving]:
    with serving(runs.home, checker="tests.deployments.test_openai_client:NoWidePictures") as running:
        yield running


class NoWidePictures:
    """A moderator that refuses finished pictures of one width."""

    def prompt(self, text: str) -> str | None:
        del text
        return None

    def picture(self, picture: Image.Image) -> str | None:
        return "its width is 96" if picture.width == 96 else None


@pytest.fixture
def client(service: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def opened(text: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text or "", validate=True)))


def test_every_optional_field_may_be_null(client: openai.OpenAI):
    names = (
        "background", "model", "moderation", "n", "output_compression", "output_format", "partial_images", "quality",
        "response_format", "size", "stream", "style", "complexity", "frame_count", "svg", "seed", "steps", "adapters",
    )  # fmt: skip
    reply = client.images.generate(prompt="a cat", extra_body=dict.fromkeys(names))
    assert reply.data
    assert opened(reply.data[0].b64_json).size == (64, 64)


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_a_picture_comes_in_the_format_that_was_asked_for(client: openai.OpenAI, file_format: str):
    reply = client.images.generate(
        prompt="a cat", output_format=file_format, background="opaque", moderation="low", quality="medium",  # type: ignore[arg-type]
        size="auto", n=1, user="u1", safety_identifier="s1", extra_body={"seed": 3, "steps": 2},
    )  # fmt: skip
    assert (reply.output_format, reply.background, reply.size) == (file_format, "opaque", "64x64")
    assert reply.data
    assert opened(reply.data[0].b64_json).format == file_format.upper()


def test_a_lower_quality_is_a_smaller_file_and_a_url_has_its_formats_name(client: openai.OpenAI):
    sizes: list[int] = []
    for quality in (95, 20):
        reply = client.images.generate(
            prompt="a cat", output_format="jpeg", output_compression=quality, response_format="url",
            extra_body={"seed": 3, "steps": 2},
        )  # fmt: skip
        assert reply.data
        picture = httpx2.get(reply.data[0].url or "")
        assert ".jpeg?" in (reply.data[0].url or "")
        assert picture.headers["Content-Type"] == "image/jpeg"
        sizes.append(len(picture.content))
    assert sizes[1] < 0.6 * sizes[0]


def test_a_stream_sends_previews_and_then_the_picture_of_a_plain_request(client: openai.OpenAI):
    wanted = {"seed": 5, "steps": 8}
    events = list(client.images.generate(prompt="a cat", stream=True, partial_images=2, extra_body=wanted))
    assert [event.type for event in events] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed",
    ]  # fmt: skip
    assert [event.partial_image_index for event in events if event.type.endswith("partial_image")] == [0, 1]  # type: ignore[union-attr]
    assert all(opened(event.b64_json).size == (64, 64) for event in events)
    plain = client.images.generate(prompt="a cat", extra_body=wanted)
    assert plain.data
    assert opened(events[-1].b64_json).tobytes() == opened(plain.data[0].b64_json).tobytes()
    assert len({event.b64_json for event in events}) == 3
    (only,) = client.images.generate(prompt="a cat", stream=True, output_format="webp", extra_body=wanted)
    assert opened(only.b64_json).format == "WEBP"


def test_a_stream_ends_with_the_reason_if_the_picture_is_refused(client: openai.OpenAI):
    stream = client.images.generate(
        prompt="a cat", size="96x64", stream=True, partial_images=1, extra_body={"steps": 4}
    )
    with pytest.raises(openai.APIError, match="its width is 96"):
        list(stream)  # and no preview of it was sent


def test_a_client_that_leaves_its_stream_frees_its_place(client: openai.OpenAI, service: Serving):
    stream = client.images.generate(prompt="gone", stream=True, partial_images=3, extra_body={"steps": 120})
    next(iter(stream))
    stream.close()
    assert service.ask(prompt="a cat", steps=2).status_code == 200
    states = [job.state for job in service.state.job_store.since(datetime(2026, 1, 1, tzinfo=UTC), 2)]
    assert "cancelled" in states


def test_the_asynchronous_client_and_raw_responses_work(service: Serving, client: openai.OpenAI):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as other:
            reply = await other.images.generate(prompt="a cat", extra_body={"steps": 2})
            stream = await other.images.generate(prompt="a cat", stream=True, extra_body={"steps": 2})
            assert reply.data
            return [reply.data[0].b64_json or "", *[event.b64_json async for event in stream]]

    assert all(opened(text).size == (64, 64) for text in asyncio.run(ask()))
    raw = client.images.with_raw_response.generate(prompt="a cat", extra_body={"steps": 2})
    assert raw.headers["X-Request-Id"]
    assert raw.parse().data


def test_edits_and_variations_are_refused_clearly(client: openai.OpenAI, tmp_path: Path):
    big = tmp_path / "big.png"
    Image.effect_noise((1500, 1500), 90).convert("RGB").save(big)  # some megabytes
    with pytest.raises(openai.BadRequestError, match="draws from prompts only"):
        client.images.edit(image=big, prompt="a hat")
    with pytest.raises(openai.BadRequestError, match="draws from prompts only"):
        client.images.edit(image=big, prompt="a hat", stream=True)
    with pytest.raises(openai.BadRequestError, match="draws from prompts only"):
        client.images.create_variation(image=big)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "jpeg", "output_compression": 101}, "output_compression"),
        ({"quality": "best"}, "quality"),
        ({"size": "large"}, "size"),
        ({"moderation": "none"}, "moderation"),
        ({"style": "vivid"}, "style"),
        ({"partial_images": 2}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"stream": True, "n": 2}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"stream": "yes"}, "stream"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_fields_name(
    client: openai.OpenAI, fields: dict[str, object], param: str
):
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a cat", extra_body=fields)
    assert refused.value.param == param
    body = json.loads(refused.value.response.content)
    assert body["error"]["message"].startswith((f"{param}:", "Unknown parameter"))
