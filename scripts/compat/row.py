"""One row of the table: a tool, a way of saving, and the command for it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A command that is run twice: on the mount, and in an ordinary directory.

    It runs in `main.session`, which holds (see `scene.py`):

        session           the old checkpoint, 2 MiB of lines that say "old"
        draft             3 MiB of lines that say "new"
        io-logs/          draft, one, and `deep/two`
        current           a symlink to `session`

    Beside it is `other.session` with the same, but 1 MiB of "other" as its
    checkpoint. `$OUT` is a directory on another filesystem with a file
    `incoming` (as `draft`), `$PROGRAMS` has what is not a one-liner.
    """

    tool: str
    """The program that the row is about; it has to be installed."""
    way: str
    """The way of saving, as the table shows it."""
    steps: str | tuple[str, ...]
    """Shell commands, one after another. What is in place after each of them
    natively is a whole content, that a reader may see."""
    prepare: str = ""
    """A shell command on the starting state, run before there is a mount."""
    shell: str = "bash"
    watch: str = "session"
    """What the reader polls."""
    between: tuple[str, ...] = ()
    """Saves that a tool makes on its way: commands that print their contents
    from the starting state."""
    keys: tuple[tuple[bytes, bytes], ...] = ()
    """For a program on a terminal: what to wait for on the screen, and what
    to type then."""
    varies: dict[str, str] = field(default_factory=dict)
    """Files whose bytes are never the same twice, and what is in them."""

    @property
    def commands(self) -> tuple[str, ...]:
        return (self.steps,) if isinstance(self.steps, str) else self.steps

    @property
    def name(self) -> str:
        return f"{self.tool}: {self.way}"
