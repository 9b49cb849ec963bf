"""Builds every target of the Dockerfile and tries it where no container engine runs.

    sudo .venv/bin/python -m deployments.images.try_image [FOLDER]

buildah builds the Dockerfile itself, in chroots, on a clean Debian that debootstrap makes and that bears the base
image's name. Both tools are in apt; FOLDER (var/image) will hold some 30 GB. Then each program runs as the image's user
on a read-only root, with /data and /tmp to write to, in a network of its own without a way out. It is no Docker: no
seccomp, no limits, and Debian's Python 3.11 in place of the base image's own.

How packages are fetched on this machine (UV_*, PIP_*, SSL_CERT_FILE, proxies) is taken over from the environment.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = PROJECT / "deployments" / "images" / "Dockerfile"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
PACKAGES = "ca-certificates,python3.11,python3.11-venv,python3-pip"
HANDED_ON = re.compile(r"(?i)(UV|PIP)_\w+|SSL_CERT_FILE|(HTTPS?|NO)_PROXY")


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah, with all that it keeps below `folder`; layers that are there are not built again."""

    folder: Path

    def buildah(self, *arguments: str) -> str:
        where = ["--storage-driver", "overlay", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        return output_of("env", f"TMPDIR={self.folder}/scratch", "buildah", *where, *arguments)

    def make_base(self) -> None:
        """A clean Debian with a Python, under the name that the Dockerfile's FROM has."""
        name = re.findall(r"^FROM (python:\S+)", DOCKERFILE.read_text(), re.MULTILINE)[0]
        if self.buildah("images", "--quiet", "--filter", f"reference=docker.io/library/{name}"):
            return
        began, root = time.monotonic(), self.folder / "base"
        shutil.rmtree(root, ignore_errors=True)
        output_of("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), MIRROR)
        for link in ("python", "python3"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3.11")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)  # the base image's pip may install
        container = self.buildah("from", "scratch")
        self.buildah("copy", "--quiet", container, str(root), "/")
        handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.fullmatch(name)}
        for variable, value in {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **handed_on}.items():
            self.buildah("config", "--env", f"{variable}={value}", container)
        self.buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{name}")
        say(f"a clean Debian called {name}", time.monotonic() - began)

    def build(self, target: str) -> None:
        """One target of the Dockerfile, as it stands."""
        began = time.monotonic()
        how = ["--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"]
        authorities = os.environ.get("SSL_CERT_FILE")
        volumes = ["--volume", f"{authorities}:{authorities}:ro"] if authorities else []
        name = ["--file", str(DOCKERFILE), "--target", target, "--tag", f"naruto-{target}"]
        self.buildah("build", *how, *volumes, *name, str(PROJECT))
        size = self.buildah("images", "--format", "{{.Size}}", f"localhost/naruto-{target}")
        say(f"built {target}, {size}", time.monotonic() - began)

    def root_of(self, target: str) -> Path:
        """Where the files of a target lie, with its configuration beside them."""
        container = self.buildah("from", "--pull-never", f"localhost/naruto-{target}")
        root = Path(self.buildah("mount", container))
        shown = json.loads(self.buildah("inspect", "--type", "image", f"localhost/naruto-{target}"))
        (root.parent / "config.json").write_text(json.dumps(shown["Docker"]["config"]))
        return root


def output_of(*command: str) -> str:
    """What `command` prints; OSError with its last words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own commands)
    if done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise OSError(f"exit status {done.returncode} of {' '.join(command)[:400]}: {said}")
    return done.stdout.strip()


def say(what: str, seconds: float) -> None:
    print(f"{what:<50} {seconds:6.1f} s", flush=True)


GRACE_SECONDS = 30.0
TARGETS = ("worker", "service", "dashboard")
SMALL = {
    "dataset.source": "world:naruto?count=40&seed=5", "dataset.hold_out": 12, "training.max_train_steps": 20,
    "training.prior": None, "generation.prompts": 2, "generation.seeds": 1, "generation.num_inference_steps": 3,
}  # fmt: skip


def main() -> None:
    """Build, then try; exit status 1 with the reason when something does not work."""
    if sys.argv[1:2] == ["--inside"]:
        try_all({name: Path(root) for name, root in zip(TARGETS, sys.argv[2:], strict=True)})
        return
    missing = [tool for tool in ("buildah", "debootstrap", "unshare", "chroot", "ip") if not shutil.which(tool)]
    if missing or os.geteuid():
        sys.exit(f"error: this needs root and {' '.join(missing) or 'its tools'}: apt-get install buildah debootstrap.")
    builder = Builder(Path(*sys.argv[1:2] or [PROJECT / "var" / "image"]).resolve())
    (builder.folder / "scratch").mkdir(parents=True, exist_ok=True)
    builder.make_base()
    for target in TARGETS:
        builder.build(target)
    roots = [builder.root_of(target) for target in TARGETS]
    inside = [sys.executable, "-m", "deployments.images.try_image", "--inside", *map(str, roots)]
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    tried = subprocess.run([*apart, *inside], cwd=PROJECT, check=False)  # noqa: S603 (our own command)
    builder.buildah("rm", "--all")
    builder.buildah("rmi", "--prune", "--force")  # or each change of the code would leave three times 7 GB behind
    sys.exit(tried.returncode)


@dataclass(frozen=True, slots=True)
class Container:
    """A target on a read-only root, with `data` at /data where it has any; all containers share one network."""

    root: Path
    data: Path | None
    logs: Path

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.root.parent / "config.json").read_text())

    def command(self, arguments: Sequence[str] = (), **environment: str) -> list[str]:
        """A command line that runs `arguments` (none: the image's CMD) as the image's user would."""
        config, root = self.config, self.root
        mounts = [
            f"mount --bind {root} {root} && mount -o remount,ro,bind {root}",
            f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",  # noqa: S108 (the container's)
            f"mount --bind {self.data} {root}/data" if self.data else "true",
            f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev",
        ]
        variables = [*config["Env"], *(f"{name}={value}" for name, value in environment.items())]
        enter = ["chroot", f"--userspec={config['User']}", "--groups=", str(root)]
        script = " && ".join([*mounts, 'exec "$@"'])
        where = ["env", "-i", f"--chdir={config['WorkingDir']}"]
        words = [*enter, *where, *variables, *(arguments or config["Cmd"])]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *words]

    def run(self, *arguments: str, **environment: str) -> str:
        """What a command prints; the script ends when it fails."""
        return output_of(*self.command(arguments, **environment))

    @contextmanager
    def running(self, name: str, arguments: Sequence[str] = (), **environment: str) -> Iterator[None]:
        """Run in the background, then end as `docker stop` does: asked first, made to after a while."""
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 (our own command)
                self.command(arguments, **environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    say(f"{name} did not stop when asked, and was killed", GRACE_SECONDS)

    def healthy(self) -> bool:
        """What the image's HEALTHCHECK says."""
        check = self.config["Healthcheck"]["Test"][1:]
        return not subprocess.run(self.command(check), capture_output=True, check=False).returncode  # noqa: S603


def try_all(roots: dict[str, Path]) -> None:
    """Everything that a person would do first with the three images, in this order."""
    output_of("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        os.chown(data, 10001, 10001)
        worker, service, dashboard = (Container(roots[target], data, Path(folder)) for target in TARGETS)
        try:
            try_command(worker)
            try_service(service)
            try_dashboard(dashboard)
            try_worker(worker)
        except (AssertionError, OSError, TimeoutError):
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
            raise


def try_command(worker: Container) -> None:
    """The user, the root that cannot be written to, and a small run of the whole job."""
    assert worker.run("id", "-u", "-n") == "naruto"
    writable = ["(", "-user", "naruto", "-o", "-perm", "-0002", ")", "-not", "-type", "l"]
    assert not worker.run("find", "/app", "/usr", *writable), "not even where the root may be written to"
    assert fails(worker.command(["touch", "/data/x", "/app/x"]))
    assert "rescore" in worker.run("naruto", "--help")
    flags = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value).strip(chr(34))}")]
    began = time.monotonic()
    worker.run("naruto", "run", "--recipe", "mini", *flags)
    say("naruto run --recipe mini, made small", time.monotonic() - began)


def try_service(service: Container) -> None:
    """No key, no listening; with compose's one: ready, a picture, the same picture, nothing for strangers."""
    assert fails(service.command())
    for _ in range(2):
        service.run(*composed("key"))
    key = service.run("cat", "/data/playground.key")
    url = "http://127.0.0.1:8000"
    with service.running("service"):
        say("service alive", wait_until(lambda: status(f"{url}/healthz") == 200))
        say("service ready, after that", wait_until(lambda: status(f"{url}/readyz") == 200))
        wanted = {"prompt": "a naruto anime character with red hair", "seed": 7, "steps": 5}
        assert status(f"{url}/v1/images/generations", wanted) == 401
        first, again = (ask(f"{url}/v1/images/generations", wanted, key)["data"][0]["b64_json"] for _ in range(2))
        assert first == again
        assert status(f"{url}/metrics") == 200
        assert service.healthy()
    assert not service.healthy()


def try_dashboard(dashboard: Container) -> None:
    """With the command of compose.yaml, which hands the playground its key."""
    with dashboard.running("dashboard", composed("dashboard"), NARUTO_SERVICE="http://127.0.0.1:8000"):
        say("dashboard healthy", wait_until(dashboard.healthy))


def try_worker(worker: Container) -> None:
    """Prefect's server, the deployments and the bare name of one, with the commands that compose.yaml has."""
    environment = compose()["prefect"]["environment"]
    wanted = {name: value for name, value in environment.items() if "DATABASE" not in name}
    once = replace(worker, data=None)  # `deploy` has no volume
    client = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "PREFECT_HOME": "/tmp/prefect"}  # noqa: S108 (a tmpfs)
    with worker.running("prefect", composed("prefect"), **wanted):
        say("Prefect server", wait_until(lambda: status("http://127.0.0.1:4200/api/health") == 200))
        began = time.monotonic()
        once.run(*composed("deploy"), **client)
        say("deployments written", time.monotonic() - began)
        assert "deployments" not in once.run(*composed("deploy"), **client), "a second time there is nothing to do"
        with worker.running("worker", PREFECT_API_URL=client["PREFECT_API_URL"]):
            say("worker healthy", wait_until(worker.healthy))
            began = time.monotonic()
            person = {**client, "PREFECT_PLUGINS_ENABLED": "true"}
            overrides = f"overrides={json.dumps({**SMALL, 'training.seed': 43})}"
            once.run("prefect", "deployment", "run", "train-naruto", "--param", overrides, "--watch", **person)
            say("prefect deployment run train-naruto", time.monotonic() - began)
    assert len(json.loads(worker.run("naruto", "runs", "--json"))) == 2


def composed(service: str) -> list[str]:
    """The command that compose.yaml has for a service."""
    return [word.replace("$$", "$") for word in compose()[service]["command"]]


def compose() -> dict[str, Any]:
    """The services of compose.yaml."""
    return yaml.safe_load((PROJECT / "deployments" / "compose" / "compose.yaml").read_text())["services"]


def fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0  # noqa: S603 (our own command)


def ask(url: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """The decoded answer to one request."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (127.0.0.1)
        return json.loads(answer.read())


def status(url: str, body: dict[str, Any] | None = None) -> int:
    """The status of one request; 0 when nobody answers, 200 for an answer that is no JSON."""
    try:
        ask(url, body)
    except urllib.error.HTTPError as error:
        return error.code
    except ValueError:
        return 200
    except OSError:
        return 0
    return 200


def wait_until(happened: Callable[[], bool], seconds: float = 180) -> float:
    """How long it took; TimeoutError after `seconds`."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
