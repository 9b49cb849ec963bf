"""Builds every target of the Dockerfile and tests the images, where no container engine runs.

    sudo .venv/bin/python -m deployments.images.try_image [FOLDER]

buildah builds the Dockerfile in chroots, on a clean Debian that debootstrap makes and that gets the base image's name.
Both tools are in apt; FOLDER (var/image) needs 30 GB. Then each program runs as the image's user on a read-only root,
with /data and /tmp to write to, in a network without a way out. Differences from Docker: no seccomp, no limits, and
Debian's Python 3.11 in place of the base image's.

The settings of this machine's package downloads (UV_*, PIP_*, SSL_CERT_FILE, proxies) are taken from the environment.
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
DOWNLOAD_VARIABLES = re.compile(r"(?i)(UV|PIP)_\w+|SSL_CERT_FILE|(HTTPS?|NO)_PROXY")


@dataclass(frozen=True, slots=True)
class Builder:
    """buildah with its storage in `folder`; existing layers are not built again."""

    folder: Path

    def buildah(self, *arguments: str) -> str:
        storage = ["--storage-driver", "overlay", "--root", f"{self.folder}/storage", "--runroot", f"{self.folder}/run"]
        return output_of("env", f"TMPDIR={self.folder}/scratch", "buildah", *storage, *arguments)

    def make_base(self) -> None:
        """Make a clean Debian with a Python, named as the Dockerfile's base image."""
        name = re.findall(r"^FROM (python:\S+)", DOCKERFILE.read_text(), re.MULTILINE)[0]
        if self.buildah("images", "--quiet", "--filter", f"reference=docker.io/library/{name}"):
            return
        started, root = time.monotonic(), self.folder / "base"
        shutil.rmtree(root, ignore_errors=True)
        output_of("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), MIRROR)
        for link in ("python", "python3"):
            (root / "usr/local/bin" / link).symlink_to("/usr/bin/python3.11")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink(missing_ok=True)  # the base image's pip may install
        container = self.buildah("from", "scratch")
        self.buildah("copy", "--quiet", container, str(root), "/")
        variables = {name: value for name, value in os.environ.items() if DOWNLOAD_VARIABLES.fullmatch(name)}
        for variable, value in {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", **variables}.items():
            self.buildah("config", "--env", f"{variable}={value}", container)
        self.buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{name}")
        report(f"a clean Debian called {name}", time.monotonic() - started)

    def build(self, target: str) -> None:
        """Build one target of the Dockerfile."""
        started = time.monotonic()
        options = ["--isolation", "chroot", "--layers", "--pull-never", "--format", "docker"]
        authorities = os.environ.get("SSL_CERT_FILE")
        volumes = ["--volume", f"{authorities}:{authorities}:ro"] if authorities else []
        name = ["--file", str(DOCKERFILE), "--target", target, "--tag", f"naruto-{target}"]
        self.buildah("build", *options, *volumes, *name, str(PROJECT))
        size = self.buildah("images", "--format", "{{.Size}}", f"localhost/naruto-{target}")
        report(f"built {target}, {size}", time.monotonic() - started)

    def root_of(self, target: str) -> Path:
        """The folder with the files of a target; its configuration is beside it."""
        container = self.buildah("from", "--pull-never", f"localhost/naruto-{target}")
        root = Path(self.buildah("mount", container))
        description = json.loads(self.buildah("inspect", "--type", "image", f"localhost/naruto-{target}"))
        (root.parent / "config.json").write_text(json.dumps(description["Docker"]["config"]))
        return root


def output_of(*command: str) -> str:
    """The output of `command`; OSError with its last 4,000 characters if it fails."""
    process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own commands)
    if process.returncode:
        output = (process.stdout + process.stderr)[-4000:]
        raise OSError(f"exit status {process.returncode} of {' '.join(command)[:400]}: {output}")
    return process.stdout.strip()


def report(what: str, seconds: float) -> None:
    print(f"{what:<50} {seconds:6.1f} s", flush=True)


GRACE_SECONDS = 30.0
TARGETS = ("worker", "service", "dashboard")
SMALL = {
    "dataset.source": "world:naruto?count=40&seed=5", "dataset.hold_out": 12, "training.max_train_steps": 20,
    "training.prior": None, "generation.prompts": 2, "generation.seeds": 1, "generation.num_inference_steps": 3,
}  # fmt: skip


def main() -> None:
    """Build and test the images; exit status 1 and the reason if a test fails."""
    if sys.argv[1:2] == ["--inside"]:
        check_all({name: Path(root) for name, root in zip(TARGETS, sys.argv[2:], strict=True)})
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
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.run([*namespaces, *inside], cwd=PROJECT, check=False)  # noqa: S603 (our own command)
    builder.buildah("rm", "--all")
    builder.buildah("rmi", "--prune", "--force")  # else every change of the code would leave three times 7 GB behind
    sys.exit(process.returncode)


@dataclass(frozen=True, slots=True)
class Container:
    """A target on a read-only root, with `data` (unless None) at /data; all containers share one network."""

    root: Path
    data: Path | None
    logs: Path

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.root.parent / "config.json").read_text())

    def command(self, arguments: Sequence[str] = (), **environment: str) -> list[str]:
        """The command line that runs `arguments` (default: the image's CMD) as the image's user."""
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
        clean = ["env", "-i", f"--chdir={config['WorkingDir']}"]
        words = [*enter, *clean, *variables, *(arguments or config["Cmd"])]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *words]

    def run(self, *arguments: str, **environment: str) -> str:
        """The output of a command; OSError if it fails."""
        return output_of(*self.command(arguments, **environment))

    @contextmanager
    def running(self, name: str, arguments: Sequence[str] = (), **environment: str) -> Iterator[None]:
        """Run in the background during the block, then stop as `docker stop` does: SIGTERM, later SIGKILL."""
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
                    report(f"{name} did not stop at SIGTERM, and was killed", GRACE_SECONDS)

    def healthy(self) -> bool:
        """Whether the image's HEALTHCHECK passes."""
        check = self.config["Healthcheck"]["Test"][1:]
        return not subprocess.run(self.command(check), capture_output=True, check=False).returncode  # noqa: S603


def check_all(roots: dict[str, Path]) -> None:
    """What a person would do first with the three images, in this order."""
    output_of("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        os.chown(data, 10001, 10001)
        worker, service, dashboard = (Container(roots[target], data, Path(folder)) for target in TARGETS)
        try:
            check_command(worker)
            check_service(service)
            check_dashboard(dashboard)
            check_worker(worker)
        except (AssertionError, OSError, TimeoutError):
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-20:], sep="\n")
            raise


def check_command(worker: Container) -> None:
    """The user, the read-only root, and a small run of the whole job."""
    assert worker.run("id", "-u", "-n") == "naruto"
    writable = ["(", "-user", "naruto", "-o", "-perm", "-0002", ")", "-not", "-type", "l"]
    assert not worker.run("find", "/app", "/usr", *writable), "no file of the image may be writable for the user"
    assert fails(worker.command(["touch", "/data/x", "/app/x"]))
    assert "rescore" in worker.run("naruto", "--help")
    flags = [part for key, value in SMALL.items() for part in ("--set", f"{key}={json.dumps(value).strip(chr(34))}")]
    started = time.monotonic()
    worker.run("naruto", "run", "--recipe", "mini", *flags)
    report("naruto run --recipe mini, with small settings", time.monotonic() - started)


def check_service(service: Container) -> None:
    """Without a key it does not start. With compose's key: ready, the same picture twice, 401 without the key."""
    assert fails(service.command())
    for _ in range(2):
        service.run(*composed("key"))
    key = service.run("cat", "/data/playground.key")
    url = "http://127.0.0.1:8000"
    with service.running("service"):
        report("service alive", wait_until(lambda: status(f"{url}/healthz") == 200))
        report("service ready, after that", wait_until(lambda: status(f"{url}/readyz") == 200))
        body = {"prompt": "a naruto anime character with red hair", "seed": 7, "steps": 5}
        assert status(f"{url}/v1/images/generations", body) == 401
        first, again = (ask(f"{url}/v1/images/generations", body, key)["data"][0]["b64_json"] for _ in range(2))
        assert first == again
        assert status(f"{url}/metrics") == 200
        assert service.healthy()
    assert not service.healthy()


def check_dashboard(dashboard: Container) -> None:
    """With the command of compose.yaml, which passes the key to the playground."""
    with dashboard.running("dashboard", composed("dashboard"), NARUTO_SERVICE="http://127.0.0.1:8000"):
        report("dashboard healthy", wait_until(dashboard.healthy))


def check_worker(worker: Container) -> None:
    """Prefect's server, the deployments, and a run by its bare name, with the commands of compose.yaml."""
    environment = compose()["prefect"]["environment"]
    without_postgres = {name: value for name, value in environment.items() if "DATABASE" not in name}
    no_volume = replace(worker, data=None)  # as the service `deploy`
    client = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "PREFECT_HOME": "/tmp/prefect"}  # noqa: S108 (a tmpfs)
    with worker.running("prefect", composed("prefect"), **without_postgres):
        report("Prefect server", wait_until(lambda: status("http://127.0.0.1:4200/api/health") == 200))
        started = time.monotonic()
        no_volume.run(*composed("deploy"), **client)
        report("deployments written", time.monotonic() - started)
        assert "deployments" not in no_volume.run(*composed("deploy"), **client), "the second time nothing is written"
        with worker.running("worker", PREFECT_API_URL=client["PREFECT_API_URL"]):
            report("worker healthy", wait_until(worker.healthy))
            started = time.monotonic()
            person = {**client, "PREFECT_PLUGINS_ENABLED": "true"}
            overrides = f"overrides={json.dumps({**SMALL, 'training.seed': 43})}"
            no_volume.run("prefect", "deployment", "run", "train-naruto", "--param", overrides, "--watch", **person)
            report("prefect deployment run train-naruto", time.monotonic() - started)
    assert len(json.loads(worker.run("naruto", "runs", "--json"))) == 2


def composed(service: str) -> list[str]:
    """The command of a service in compose.yaml."""
    return [word.replace("$$", "$") for word in compose()[service]["command"]]


def compose() -> dict[str, Any]:
    """The services of compose.yaml."""
    return yaml.safe_load((PROJECT / "deployments" / "compose" / "compose.yaml").read_text())["services"]


def fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0  # noqa: S603 (our own command)


def ask(url: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
    """The decoded response to one request."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 (127.0.0.1)
        return json.loads(response.read())


def status(url: str, body: dict[str, Any] | None = None) -> int:
    """The status of one request; 0 if nothing answers, 200 for a response that is not JSON."""
    try:
        ask(url, body)
    except urllib.error.HTTPError as error:
        return error.code
    except ValueError:
        return 200
    except OSError:
        return 0
    return 200


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> float:
    """Wait until `condition()`; returns the seconds that it took, TimeoutError after `seconds`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
