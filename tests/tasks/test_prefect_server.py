"""A temporary server ends with the process that started it, also when that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from prefect.settings.models.server.services import ServerServicesTriggersSettings

from flows.process import settle_libraries

_PROGRAM = """
import os, signal, subprocess, sys, types
module = types.ModuleType("prefect.server.api.server")
server = subprocess.Popen(["sleep", "60"], stdout=-3, stderr=-3)  # it stands for the server
servers = {1: types.SimpleNamespace(server_process=server), 2: types.SimpleNamespace(server_process=None)}
module.SubprocessASGIServer = types.SimpleNamespace(_instances=servers)
sys.modules[module.__name__] = module
from tasks.prefect_server import end_server_with_this_process
end_server_with_this_process()
end_server_with_this_process()
print(server.pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _server_of_a_process_that_was(ended: str) -> int:
    program = subprocess.run([sys.executable, "-c", _PROGRAM, ended], capture_output=True, text=True, check=False)
    assert program.returncode == (-signal.SIGKILL if ended == "killed" else 0), program.stderr
    return int(program.stdout)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not status.stdout.startswith("Z") and bool(status.stdout)


def test_a_killed_process_takes_its_server_with_it_and_one_that_ends_leaves_that_to_prefect() -> None:
    ended = _server_of_a_process_that_was("ended")
    assert _runs(ended)
    os.kill(ended, signal.SIGKILL)
    killed = _server_of_a_process_that_was("killed")
    deadline = time.monotonic() + 120
    while _runs(killed) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(killed)


def test_a_temporary_server_starts_no_service_for_automations_which_a_short_command_would_end_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]})
    assert ServerServicesTriggersSettings().enabled
    settle_libraries()
    assert not ServerServicesTriggersSettings().enabled
