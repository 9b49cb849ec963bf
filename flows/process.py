"""The process of a `naruto` command: what is refused before it starts, what libraries print, errors, signals."""

import atexit
import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from naruto_core.errors import NarutoError, RecipeInvalid, printable


def settle_libraries() -> None:
    """Quiet the libraries, so that the terminal shows our progress lines; Prefect's server shall end with this process.

    A user's explicit settings win.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # On a busy machine, the first start (which makes Prefect's database) takes longer than its 20 seconds.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    # Nobody needs automations there, and their service prints a traceback when a short command ends before it runs.
    os.environ.setdefault("PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from tasks.prefect_server import watch_for_server

    watch_for_server()


def collect_rarely() -> None:
    """Let a command that only looks at what is recorded hardly search for garbage, which took a third of its time.

    Python searches after every 700 new objects, and at its end: here nearly all are of imported modules, and stay.
    """
    gc.set_threshold(20_000, 20, 20)
    atexit.register(_leave_garbage)


def _leave_garbage() -> None:
    """Let the system take the memory of this process; but extensions of torch print what was not freed at the end."""
    if "torch" not in sys.modules:
        gc.freeze()


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the command as Ctrl-C does."""


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def end_in_one_sentence(command: Callable[[], None]) -> None:
    """Run `command`; a NarutoError ends in its sentence and status 1, as does a name that is too long for a
    file; a signal ends in one and status 130 or 143."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _on_terminate) if is_main else None  # a flow has a handler of its own
    try:
        command()
    except NarutoError as error:
        print(f"naruto: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # any other one is a fault of ours: its place is needed to mend it
            raise
        print(f"naruto: {printable(str(error.filename)[:60])}... is too long for the name of a file.", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException as error:
        status = _stopped_by(error)
        if status is None:
            raise
        if leases := sys.modules.get("tasks.run_lease"):  # it was between two steps of a run
            leases.cancel_held_runs()
        print("\nnaruto: stopped; the same command resumes it.", file=sys.stderr)
        raise SystemExit(status) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _stopped_by(error: BaseException | None) -> int | None:
    """The exit status of a command that a signal ended, 128 + its number; None where no signal did.

    The signal may have stopped Prefect's server too, which then is the last error of several.
    """
    while error is not None:
        if isinstance(error, _Terminated) or type(error).__name__ == "TerminationSignal":  # Prefect's
            return 128 + signal.SIGTERM
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        error = error.__cause__ or error.__context__
    return None


def refuse_undecodable(arguments: list[str]) -> None:
    """Python keeps bytes that are not UTF-8 as lone surrogates, which no file or database of ours can hold."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise RecipeInvalid(f"the argument {argument!r} is not UTF-8 text: type it again, or rename the file.")


def check_recipe(recipe: str, dataset: str | None, overrides: dict[str, Any]) -> None:
    """Raise RecipeInvalid for a recipe or a suite that cannot work."""
    from flows.profiles import choose_recipe, choose_suite

    choose_suite(choose_recipe(recipe, dataset, overrides).generation)
