"""Who may refuse a prompt or a picture: a class that `NARUTO_SERVICE_CHECKER` names, or nobody."""

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from naruto_core.errors import ServiceFailed

if TYPE_CHECKING:
    from PIL.Image import Image


class Moderator(Protocol):
    """Each answers with the reason for a refusal, or with None. Called from threads."""

    def prompt(self, text: str) -> str | None:
        """Asked before anything is drawn."""
        ...

    def picture(self, picture: "Image") -> str | None:
        """Asked before a picture leaves."""
        ...


class NoModerator:
    """Refuses nothing."""

    def prompt(self, text: str) -> str | None:
        del text
        return None

    def picture(self, picture: "Image") -> str | None:
        del picture
        return None


def make_moderator(name: str) -> Moderator:
    """The class `package.module:name`, made without arguments; ServiceFailed when there is none."""
    if not name:
        return NoModerator()
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ServiceFailed(f"NARUTO_SERVICE_CHECKER={name!r}: {error}.") from error
