"""buildah builds the Dockerfile in chroots, on a clean Debian that bears the base image's name; see `try_image`."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DOCKERFILE = PROJECT / "deployments" / "Dockerfile"
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
