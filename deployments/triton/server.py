"""NVIDIA Triton's server without a container: PyPI's `nvidia-pytriton` carries it, `make triton` puts it into .triton.

Its python backend starts a stub that loads libpython and finds its packages through the first Python on PATH. So
`.triton` is an environment of the same interpreter as the project's; it has its own numpy and sees the rest of .venv.
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
    """Where one server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True, slots=True)
class Server:
    """An installed server: its program, the folder of its backends, and the environment that it needs."""

    program: Path
    backends: Path
    environment: dict[str, str]

    def command(self, repository: Path, address: str, ports: Ports) -> list[str]:
        """What serves the model repository at `address`, on a numbered port each for HTTP, gRPC and metrics."""
        listens = [
            f"--{what}-{key}={value}"
            for what, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics))
            for key, value in (("address", address), ("port", port))
        ]
        return [
            str(self.program),
            f"--model-repository={repository}",
            f"--backend-directory={self.backends}",
            "--disable-auto-complete-config",  # else a second process imports torch only to say nothing
            *listens,
        ]


def find_server(folder: Path = FOLDER) -> Server:
    """The server in `folder`, ready to be started.

    Raises ServiceFailed when there is none, or this Python is not one that it can use.
    """
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    home = packages / "pytriton" / "tritonserver"
    if not home.is_dir():
        raise ServiceFailed(
            "NVIDIA Triton's server is not in .triton: `make triton` puts it there, on Linux (x86-64, glibc 2.35 or "
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
    """Where this interpreter's own libpython is: another one of the same version does not fit its standard library."""
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    for folder in (Path(sysconfig.get_config_var("LIBDIR") or ""), Path(sys.base_prefix) / "lib"):
        if (folder / name).is_file():
            return folder
    raise ServiceFailed(
        f"NVIDIA Triton's python backend needs {name}, which this Python does not have: install it (Debian: "
        f"{name.partition('.so')[0]}), or use a Python that was built with --enable-shared."
    )


def _place_stub(home: Path) -> None:
    """Put the stub for this Python where the backend looks for it; copied, since it finds libraries by its place."""
    stub = home / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    place = home / "backends" / "python" / stub.name
    if not place.exists():
        with atomic_file(place) as scratch:
            shutil.copy2(stub, scratch)
