"""The errors that users can cause, and who can fix them.

    NarutoError               every error that a user can cause; shown as one sentence, exit status 1
    ├── RecipeInvalid         a recipe, prompt suite or parameter that cannot work (its author)
    ├── DatasetUnusable       a dataset that is missing, empty, or has too many broken records (its owner)
    ├── ModelUnusable         a base model, adapter or extractor that cannot be loaded or used (its owner)
    ├── DeviceUnfit           this machine cannot do what the recipe needs (who runs it)
    ├── TrainingDiverged      a loss or weights that are not finite (the recipe's author)
    ├── StorageFailed         no disk space, no permission (the disk's owner)
    ├── ServiceFailed         a server, worker or hub that does not start, answer or accept (its operator)
    ├── RatingRefused         a vote that cannot be accepted, a name in use (reviewer or admin)
    ├── NotRecorded           a run, dataset or sample that is not in the database (who typed it)
    └── RecordDamaged         files and database disagree (who keeps the data root)

A message says what happened, where, and what to do. Any other exception is a bug.
"""


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
    """A vote that cannot be accepted (closed, answered already, reassigned), or a name that is in use."""


class NotRecorded(NarutoError):
    """The database has no such run, dataset or sample."""


class RecordDamaged(NarutoError):
    """A recorded file is missing or was changed."""
