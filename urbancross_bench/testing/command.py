"""What a verb of the command line promises."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from urbancross_bench.interfaces.command import VERBS, verb
from urbancross_bench.testing.conformance import Conformance, broken


class CommandConformance(Conformance):
    """Of a verb only its help is asked for: what it does is its own affair."""

    kind = "command"

    def work(self) -> Any:
        """Its help, as `urbancross-bench NAME --help` prints it."""
        return self._called("--help")

    def _verb(self) -> Any:
        plugin = self.registry.find(self.kind, self.plugin)
        return verb(self.plugin, plugin.registration.summary, plugin.load())

    def _called(self, *arguments: str) -> tuple[int, str]:
        """The exit status, and what was printed."""
        said, status = io.StringIO(), 0
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                self._verb().main([*arguments], prog_name=f"urbancross-bench {self.plugin}")
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(bool(end.code))
        return status, said.getvalue()

    def test_it_is_of_its_kind(self) -> None:
        """It is a function that typer can make a verb of, and is registered without options."""
        super().test_it_is_of_its_kind()
        try:
            self._verb()
        except Exception as error:
            broken(f"typer cannot make a verb of it: {error}")

    def test_its_name_is_free(self) -> None:
        """It can be called: a verb of the command line's own has no such name."""
        if self.plugin in VERBS:
            broken(
                f"urbancross-bench has a verb {self.plugin!r} of its own, which comes first; choose another name"
            )

    def test_it_helps(self) -> None:
        """Its help says what the verb is for, and leaves with exit status 0."""
        status, said = self.worked().result
        summary = self.registry.find(self.kind, self.plugin).registration.summary
        if status or summary.split()[0] not in said:
            broken(f"--help leaves with {status} and says {' '.join(said.split())[:80]!r}")

    def test_a_wrong_option_is_refused(self) -> None:
        """An option that there is not is named, with exit status 2, before the verb does anything."""
        self.worked()
        status, said = self._called("--no-such-option")
        if status != 2 or "no-such-option" not in said:
            broken(f"--no-such-option leaves with {status} and says {' '.join(said.split())[:80]!r}")
