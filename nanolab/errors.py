"""The one error that a person's mistake raises. Imports nothing."""


class UserError(ValueError):
    """A person's mistake: the command line prints its one line and exits with status 2, without a
    traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it in a notebook: the same line."""
        return [f"UserError: {self}"]
