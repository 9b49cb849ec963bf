"""NVIDIA Triton's server without a container: `make triton` installs it in .triton from PyPI's `nvidia-pytriton`.

Its python backend starts a stub that loads libpython and finds packages through the first Python on PATH. So `.triton`
is an environment of the project's interpreter, with a numpy of its own and the other packages of .venv.
"""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import atomic_file
from naruto_core.errors import ServiceFailed

FOLDER = Path(__file__).resolve().parents[2] / ".triton"


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a server."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True, slots=True)
class Server:
    """An installed server: its program, the folder of its backends, and its environment variables."""

    program: Path
    backends: Path
    environment: dict[str, str]

    def command(self, repository: Path, address: str, ports: Ports) -> list[str]:
        """The command that serves the model repository at `address`, with a port each for HTTP, gRPC and metrics."""
        endpoints = [
            f"--{protocol}-{key}={value}"
            for protocol, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics))
            for key, value in (("address", address), ("port", port))
        ]
        return [
            str(self.program),
            f"--model-repository={repository}",
            f"--backend-directory={self.backends}",
            "--disable-auto-complete-config",  # else a second process imports torch for nothing
            *endpoints,
        ]


def find_server(folder: Path = FOLDER) -> Server:
    """The server that is installed in `folder`.

    Raises ServiceFailed if there is none, or if it cannot use this Python.
    """
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    home = packages / "pytriton" / "tritonserver"
    if not home.is_dir():
        raise ServiceFailed(
            "NVIDIA Triton's server is not in .triton: `make triton` installs it, on Linux (x86-64, glibc 2.35 or "
            "newer) with Python 3.11 or 3.12."
        )
    libraries = [str(_folder_of_libpython()), str(packages / "nvidia_pytriton.libs")]
    _place_stub(home)
    return Server(
        program=home / "bin" / "tritonserver",
        backends=home / "backends",
        environment={
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")},
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)]),
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
        },
    )


def _folder_of_libpython() -> Path:
    """The folder of this interpreter's libpython; another build of the same version would not fit."""
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    for folder in (Path(sysconfig.get_config_var("LIBDIR") or ""), Path(sys.base_prefix) / "lib"):
        if (folder / name).is_file():
            return folder
    raise ServiceFailed(
        f"NVIDIA Triton's python backend needs {name}, which this Python does not have: install it (Debian: "
        f"{name.partition('.so')[0]}), or use a Python that was built with --enable-shared."
    )


def _place_stub(home: Path) -> None:
    """Copy the stub of this Python into the backend's folder; a link would not do: it finds libraries by its path."""
    stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    target = home / "backends" / "python" / stub.name
    if not target.exists():
        with atomic_file(target) as scratch:
            shutil.copy2(stub, scratch)
