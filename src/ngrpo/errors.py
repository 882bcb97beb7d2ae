"""Every exception of the package, and when it is raised.

A message says what is wrong, what was got, where, and what to do. Each error also is the builtin it refines, so that
code which knows nothing of this package can catch it. Model output never raises; a bad gold always does.
"""


class NgrpoError(Exception):
    """Base of every error this package raises on purpose. The command line prints it without a traceback."""

    exit_code = 1


class UserError(NgrpoError):
    """Something the user can mend: a setting, a row, a path. The command line exits with 2."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting is unknown, mistyped or impossible. Raised before a model is loaded where possible."""


class DataError(UserError, ValueError):
    """A data set or one of its rows cannot be used. Names the file, the row and the field."""


class ModelError(UserError, ValueError):
    """A model or tokenizer folder cannot be used as it is (missing, no EOS, too few positions)."""


class RewardError(UserError, ValueError):
    """The user's reward function broke its contract, or a scorer is refused."""


class RunFolderError(UserError, ValueError):
    """A run or evaluation folder exists, is missing, not writable, or was made under other settings."""


class CheckpointError(UserError, ValueError):
    """No complete checkpoint, or one that does not fit this run."""


class MissingExtraError(UserError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class NumericsError(NgrpoError, RuntimeError):
    """Logits, a loss or a gradient are not finite. Raised before the update; the last checkpoint stays good."""


class NothingToLearnError(NgrpoError, RuntimeError):
    """Several rollout steps in a row kept no group. Raised after the state was saved."""


class Interrupted(NgrpoError):
    """SIGINT or SIGTERM asked the run to stop; the state was saved and the run can be resumed."""

    exit_code = 130
