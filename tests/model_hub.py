"""A model hub in miniature: a local server with one repository that speaks the endpoints a push asks for.

It checks tokens, knows by content what it has, can fail or stall on demand, and remembers what it was sent.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response

TOKEN = "hf_secret"


@dataclass
class Trouble:
    """The next `times` requests whose path contains `path` are answered by `status`, `headers` and `body`."""

    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    body: str = "<html>no JSON here</html>"


class ModelHub:
    """The repository me/lora: its files, commits and tags; who asked for what."""

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None  # None: there is no repository yet
        self.commits: list[list[str]] = []
        self.tags: dict[str, str] = {}
        self.stored: dict[str, bytes] = {}
        self.received: list[str] = []  # digests of large files, in the order they came
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.role = "write"
        self.troubles: list[Trouble] = []
        self.stall_after: int | None = None  # so many large files are taken, the next ones wait for ever
        self.lose_commits = 0  # so many commits are made and then answered by an error
        self.app = FastAPI()
        self.app.middleware("http")(self._at_the_door)
        self._serve_account()
        self._serve_files()
        self._serve_repository()

    @property
    def head(self) -> str:
        return hashlib.sha1(json.dumps(self.commits).encode()).hexdigest()

    async def _at_the_door(self, request: Request, call_next):
        path = request.url.path
        token = request.headers.get("authorization")
        self.requests.append(f"{request.method} {path}")
        self.tokens.add(token)
        for trouble in self.troubles:
            if trouble.path in path and trouble.times:
                trouble.times -= 1
                return Response(trouble.body, trouble.status, trouble.headers)
        if not path.startswith("/store/") and token != f"Bearer {TOKEN}":
            return Response(status_code=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        return await call_next(request)

    def _serve_account(self) -> None:
        @self.app.get("/api/whoami-v2")
        def who():
            return {"name": "me", "orgs": [{"name": "us"}], "auth": {"accessToken": {"role": self.role}}}

        @self.app.post("/api/validate-yaml")
        def validate():
            return {"errors": [], "warnings": []}

        @self.app.post("/api/repos/create")
        async def create(request: Request):
            asked = await request.json()
            if self.private is not None:
                return Response(json.dumps({"url": f"{self.address}/me/lora"}), 409)
            self.private = asked.get("visibility") == "private" or asked.get("private") is True
            return {"url": f"{self.address}/me/lora"}

    def _serve_files(self) -> None:
        @self.app.post("/api/models/me/lora/preupload/main")
        async def preupload(request: Request):
            return {"files": [self._place(one["path"]) for one in (await request.json())["files"]]}

        @self.app.post("/me/lora.git/info/lfs/objects/batch")
        async def batch(request: Request):
            answer = []
            for one in (await request.json())["objects"]:
                upload = {"upload": {"href": f"{self.address}/store/{one['oid']}?signature=s3cr3t"}}
                known = {"oid": one["oid"], "size": one["size"]}
                answer.append(known if one["oid"] in self.stored else known | {"actions": upload})
            body = json.dumps({"transfer": "basic", "objects": answer})
            return Response(body, media_type="application/vnd.git-lfs+json")

        @self.app.put("/store/{oid}")
        async def store(oid: str, request: Request):
            body = await request.body()
            if self.stall_after is not None and len(self.received) >= self.stall_after:
                while not await request.is_disconnected():
                    await asyncio.sleep(0.02)
                raise HTTPException(503)
            assert hashlib.sha256(body).hexdigest() == oid
            self.stored[oid] = body
            self.received.append(oid)
            return {}

    def _place(self, path: str) -> dict[str, object]:
        """Text goes into git, all else is large; what is there already has its digest."""
        large, known = not path.endswith(".md"), self.files.get(path)
        digest = None
        if known is not None:
            git = hashlib.sha1(f"blob {len(known)}\0".encode() + known)
            digest = hashlib.sha256(known).hexdigest() if large else git.hexdigest()
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": digest}

    def _serve_repository(self) -> None:
        @self.app.post("/api/models/me/lora/commit/main")
        async def commit(request: Request):
            changed: dict[str, bytes] = {}
            for line in (await request.body()).splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    changed[value["path"]] = base64.b64decode(value["content"])
                if entry["key"] == "lfsFile":
                    changed[value["path"]] = self.stored[value["oid"]]
            self.files |= changed
            self.commits.append(sorted(changed))
            if self.lose_commits:
                self.lose_commits -= 1
                return Response(status_code=504)
            return {"success": True, "commitOid": self.head, "commitUrl": f"{self.address}/me/lora/commit/{self.head}"}

        @self.app.post("/api/models/me/lora/tag/{revision}")
        async def tag(request: Request, revision: str):
            name = (await request.json())["tag"]
            if name in self.tags:
                raise HTTPException(409)
            self.tags[name] = revision
            return {}

        @self.app.get("/api/models/me/lora/revision/{revision}")
        @self.app.get("/api/models/me/lora")
        def info(revision: str = "main"):
            files = [{"rfilename": name} for name in self.files]
            return {"id": "me/lora", "sha": self.head, "private": self.private, "siblings": files}


@contextmanager
def serving() -> Iterator[ModelHub]:
    """A hub at its `address`, for as long as the block lasts."""
    hub = ModelHub()
    server = uvicorn.Server(uvicorn.Config(hub.app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    hub.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield hub
    server.should_exit = server.force_exit = True
    thread.join(10)
