"""Moderation: the class that `NARUTO_SERVICE_CHECKER` names may refuse prompts and pictures."""

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from naruto_core.errors import ServiceFailed

if TYPE_CHECKING:
    from PIL.Image import Image


class Moderator(Protocol):
    """Each method returns the reason for a refusal, or None. They are called from threads."""

    def prompt(self, text: str) -> str | None:
        """Called before anything is drawn."""
        ...

    def picture(self, picture: "Image") -> str | None:
        """Called before a picture is sent."""
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
    """An instance of the class `package.module:Class`; ServiceFailed if it cannot be imported or called."""
    if not name:
        return NoModerator()
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ServiceFailed(f"NARUTO_SERVICE_CHECKER={name!r}: {error}.") from error
