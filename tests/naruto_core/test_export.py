"""Pushing an adapter, against a local server that speaks the hub's endpoints."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from safetensors.numpy import save_file


class Hub:
    """One model repository: what create, upload and tag ask a hub for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.tags: list[str] = []
        self.created: dict[str, object] = {}
        self.tokens: set[str | None] = set()
        self.app = FastAPI()
        self._routes()

    @property
    def sha(self) -> str:
        return hashlib.sha1(json.dumps(sorted(self.files)).encode()).hexdigest()

    def _routes(self) -> None:
        app = self.app

        @app.middleware("http")
        async def remember_token(request: Request, call_next):
            self.tokens.add(request.headers.get("authorization"))
            return await call_next(request)

        @app.post("/api/repos/create")
        async def create(request: Request):
            self.created = await request.json()
            return {"url": f"{request.base_url}me/lora", "name": "lora"}

        @app.post("/api/models/me/lora/preupload/main")
        async def preupload(request: Request):
            files = (await request.json())["files"]
            return {"files": [{"path": f["path"], "uploadMode": "lfs", "shouldIgnore": False} for f in files]}

        @app.post("/me/lora.git/info/lfs/objects/batch")
        async def batch(request: Request):
            objects = (await request.json())["objects"]
            actions = {o["oid"]: {"upload": {"href": f"{request.base_url}store/{o['oid']}"}} for o in objects}
            answer = [{"oid": o["oid"], "size": o["size"], "actions": actions[o["oid"]]} for o in objects]
            body = json.dumps({"transfer": "basic", "objects": answer})
            return Response(body, media_type="application/vnd.git-lfs+json")

        @app.put("/store/{oid}")
        async def store(oid: str, request: Request):
            self.large[oid] = await request.body()
            return {}

        @app.post("/api/models/me/lora/commit/main")
        async def commit(request: Request):
            for line in (await request.body()).splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if entry["key"] == "lfsFile":
                    self.files[value["path"]] = self.large[value["oid"]]
            return {"success": True, "commitOid": self.sha, "commitUrl": f"{request.base_url}me/lora/commit/x"}

        @app.post("/api/models/me/lora/tag/{revision}")
        async def tag(request: Request, revision: str):
            self.tags.append((await request.json())["tag"])
            return {}

        @app.post("/api/validate-yaml")
        def validate():
            return {"errors": [], "warnings": []}

        @app.get("/api/models/me/lora/revision/{revision}")
        @app.get("/api/models/me/lora")
        def info(revision: str = "main"):
            return {"id": "me/lora", "sha": self.sha, "siblings": [{"rfilename": name} for name in self.files]}


@pytest.fixture
def hub() -> Iterator[tuple[Hub, str]]:
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(hub.app, host="127.0.0.1", port=0, log_level="critical"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield hub, f"http://127.0.0.1:{port}"
    server.should_exit = True


def _push(folder: Path, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    program = """
import sys
from pathlib import Path
from naruto_core.errors import NarutoError
from naruto_core.export import push_adapter
try:
    print(push_adapter(Path(sys.argv[1]), "me/lora", True, "2026-11-23-mini-3f9c", "hf_secret"))
except NarutoError as error:
    sys.exit(f"naruto: {error}")
"""
    variables = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"weight": np.ones(4, dtype=np.float32)}, folder / "pytorch_lora_weights.safetensors")
    (folder / "notes.pkl").write_bytes(b"not to be sent")
    return folder


def test_a_pushed_adapter_is_private_tagged_and_only_safetensors(hub: tuple[Hub, str], adapter: Path, tmp_path: Path):
    server, endpoint = hub
    done = _push(adapter, endpoint, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert server.created.get("visibility") == "private" or server.created.get("private") is True
    name = "pytorch_lora_weights.safetensors"
    assert server.files == {name: (adapter / name).read_bytes()}
    assert server.tags == ["2026-11-23-mini-3f9c"]
    assert server.tokens == {"Bearer hf_secret"} | (server.tokens & {None})
    assert "hf_secret" not in done.stdout + done.stderr
    again = _push(adapter, endpoint, tmp_path / "cache")
    assert again.returncode == 0, again.stderr


def test_a_hub_that_cannot_be_reached_is_one_sentence(adapter: Path, tmp_path: Path):
    done = _push(adapter, "http://127.0.0.1:9", tmp_path / "cache")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("naruto: pushing to me/lora failed")
    assert "Traceback" not in done.stderr
