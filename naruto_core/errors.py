"""The errors that users can cause, and who can fix them.

    NarutoError               every mistake a user can make; shown as one sentence, exit status 1
    ├── RecipeInvalid         a recipe, prompt suite or parameter that cannot work (who wrote it)
    ├── DatasetUnusable       a dataset that is missing, empty or too broken (who brought it)
    ├── ModelUnusable         a base model, adapter or extractor that cannot be loaded or used (who named it)
    ├── DeviceUnfit           this machine cannot do what the recipe asks (who runs it)
    ├── TrainingDiverged      a loss that has ceased to be a number (who wrote the recipe)
    ├── StorageFailed         no space, no permission (who owns the disk)
    ├── ServiceFailed         a server, worker or hub that does not start, answer or accept (who asked for it)
    ├── RatingRefused         a vote, reviewer or campaign that cannot be accepted (the reviewer or the admin)
    ├── AccessRefused         something that only an admin may ask for (who asks)
    ├── PromotionRefused      a promotion or rollback that is not allowed (who promotes)
    ├── DeletionRefused       a run that cannot be deleted now (who deletes)
    ├── RunStopped            a run that somebody asked to stop (who asked)
    │   └── RunPruned         a run that a sweep ended early (who wrote the sweep file)
    ├── ServiceKeyInvalid     an API key that cannot be made or removed (who runs the service)
    ├── NotRecorded           asked for something the store does not know (who typed it)
    └── RecordDamaged         files and store disagree (who keeps the archive)

A message says what happened, where, and what to do. Any other exception is a bug.
"""

GO_ON = "the same command goes on where it ended."  # how many messages end

# marks that turn the direction of writing, and ends of lines
_MISLEADING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


def printable(text: str) -> str:
    """`text` for a terminal: control characters, which could move its cursor or change its title, are escaped.

    So are marks that turn the direction of writing. New lines and tabs stay.
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if (letter < " " and letter not in "\n\t") or "\x7f" <= letter <= "\x9f" or letter in _MISLEADING
        else letter
        for letter in text
    )


def amount(n: int, thing: str) -> str:
    """The number with its noun: "1 picture", "3 pictures"; `thing` is in the singular."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


class NarutoError(Exception):
    """An error that one sentence explains; never shown with a traceback."""


class RecipeInvalid(NarutoError):
    """A recipe, prompt suite or parameter that cannot work."""


class DatasetUnusable(NarutoError):
    """A dataset that is missing, empty, or has too many broken records."""


class ModelUnusable(NarutoError):
    """A base model, adapter or feature extractor that is missing, does not fit, or whose numbers are not finite."""


class DeviceUnfit(NarutoError):
    """This machine cannot run what the recipe needs."""


class TrainingDiverged(NarutoError):
    """The loss stays non-finite, or the trained weights are not finite."""


class StorageFailed(NarutoError):
    """The disk is full, or a folder is not writable."""


class ServiceFailed(NarutoError):
    """A server, worker or model hub that does not start, stop, answer or accept."""


class RatingRefused(NarutoError):
    """A vote that cannot be accepted (campaign closed, answered already, not yours), or a name that is in use."""


class AccessRefused(NarutoError):
    """A person who is not an admin asks for something that only admins may ask for."""


class PromotionRefused(NarutoError):
    """A run that cannot be promoted, a promotion without a name or reason, or a rollback without an earlier run."""


class DeletionRefused(NarutoError):
    """A run that cannot be deleted: an alias names it, a process works on it, or people vote on it."""


class RunStopped(NarutoError):
    """A run that ended at a safe point because somebody asked for it; the same command resumes it."""


class RunPruned(RunStopped):
    """A run that a sweep ended early, because its previews scored low; `naruto run` of its recipe goes on with it."""


class ServiceKeyInvalid(NarutoError):
    """An API key of the HTTP service with an invalid, used or unknown name."""


class NotRecorded(NarutoError):
    """The database has no such run, dataset or sample."""


class RecordDamaged(NarutoError):
    """A recorded file is missing or was changed."""
