"""What every plugin promises, whatever its kind. A promise is a method `test_…`; its docstring is its words."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar
from unittest import SkipTest

import numpy as np

from urbancross_bench.errors import PluginError, UrbanCrossError, UsageError
from urbancross_bench.interfaces import Options
from urbancross_bench.kinds import misfit
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.sources import file_of
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.elsewhere import Look, others_elsewhere
from urbancross_bench.testing.probe import Registered, registered_alone
from urbancross_bench.testing.watching import Observed, folder, held_after, observe

T = TypeVar("T")


def _texts(value: Any) -> list[str]:
    """The texts in an option's value."""
    if isinstance(value, Mapping | list):
        parts = value.values() if isinstance(value, Mapping) else value
        return [text for part in parts for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def broken(reason: str) -> NoReturn:
    """The promise is not kept, for this reason. Raises AssertionError."""
    raise AssertionError(reason)


@functools.cache
def registry_of(files: tuple[str, ...]) -> Registry:
    """The plugins that are installed, and those in files."""
    return Registry.discover(files)


class Conformance:
    """The promises of every plugin. Subclass that of the kind, and name the plugin.

    plugin: its name. options: what `name[option=value]` would say; what needs files may make them in `choose`
    instead. member: of a dataset that has several. files: one-file plugins to load first. patience: seconds that
    any one thing the plugin is asked to do may take.
    """

    kind: ClassVar[str] = ""
    plugin: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    member: ClassVar[str | None] = None
    files: ClassVar[Sequence[str | Path]] = ()
    patience: ClassVar[float] = 60.0
    _kept: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._kept = {}

    def choose(self) -> Mapping[str, Any]:
        """The options to test with. Raises SkipTest where there is nothing to test with here."""
        return self.options

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for all promises of this class."""
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept

    @property
    def registry(self) -> Registry:
        """Where the plugin is looked up."""
        return registry_of(tuple(str(file_of(file)) for file in self.files))

    @property
    def resolved(self) -> Resolved:
        """The plugin with its options checked. Raises SkipTest where it lacks an option that it needs."""
        return self.once("resolved", self._resolve)

    def _resolve(self) -> Resolved:
        plugin = self.registry.find(self.kind, self.plugin)
        options = dict(self.choose())
        missing = [
            name
            for name, one in plugin.options_type.model_fields.items()
            if one.is_required() and name not in options
        ]
        if missing:
            raise SkipTest(
                f"needs the option {missing[0]!r}; say what to test with, as {self.plugin}[{missing[0]}=…]"
            )
        try:
            return self.registry.resolve(self.kind, Reference(self.plugin, self._member(), options))
        except UsageError as error:
            # A model may ask for more than its fields say, such as one of two options.
            if options:
                raise
            raise SkipTest(f"cannot do with its defaults ({error}); say what to test with") from None

    def build(self) -> Any:
        """A fresh instance of the plugin."""
        return self.resolved.build()

    def work(self) -> Any:
        """What the plugin is there for, on something small: arrays, tensors, texts and numbers that come of it."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Whatever has to be there before the plugin is watched at work. Raises SkipTest."""
        self.resolved  # noqa: B018 - a SkipTest must not pass for what the plugin raised
        self.imported  # noqa: B018 - what importing does is a promise of its own

    @property
    def imported(self) -> Observed:
        """What there was to see when the plugin's class was imported; the class is its result."""
        return self.once(
            "imported", lambda: observe(self.registry.find(self.kind, self.plugin).load, self.patience)
        )

    def watched(self, work: Callable[[], Any]) -> Observed:
        """What there is to see when the plugin does something. torch is seeded alike every time."""
        self.prepare()
        return observe(work, self.patience)

    def copes_with(self, what: str, work: Callable[[], Any]) -> None:
        """Do something out of the ordinary: it works, or is refused in words that are meant for users."""
        error = self.watched(work).error
        if isinstance(error, SkipTest):
            raise error
        if error is not None and not isinstance(error, UrbanCrossError):
            broken(
                f"{what}: {type(error).__name__}: {error}; make it work, or raise one of urbancross_bench.errors"
            )

    def seen(self, name: str = "first") -> Observed:
        """What there was to see when it did its work; done once for each name."""
        return self.once(f"seen {name}", lambda: self.watched(self.work))

    def worked(self) -> Observed:
        """The same, of work that came to its end. Raises SkipTest where not: that is another promise."""
        seen = self.seen()
        if seen.error is not None:
            raise SkipTest("it does not do its work, which is a promise of its own")
        return seen

    def _in_a_file(self) -> bool:
        return self.registry.find(self.kind, self.plugin).provider.distribution is None

    def _alone(self) -> Registered:
        names = "" if self._in_a_file() else self.registry.find(self.kind, self.plugin).provider.name
        return registered_alone(names, tuple(str(file_of(file)) for file in self.files), self.patience)

    def test_it_is_there(self) -> None:
        """It is found by its name, once, and says in a line what it is."""
        plugin = self.registry.find(self.kind, self.plugin)
        if not plugin.registration.summary.strip():
            broken("its summary is empty")

    def test_it_registers_by_itself(self) -> None:
        """Registering it, and reading its options, comes to an end in a process of its own, and prints nothing."""
        alone = self._alone()
        if alone.error:
            broken(alone.error)
        if alone.printed:
            broken(f"registering it prints to standard output: {alone.printed[:80]!r}")

    def test_registering_is_light(self) -> None:
        """Registering it, and reading its options, imports no torch and nothing else that takes seconds."""
        if self._in_a_file():
            raise SkipTest("it is a file of its own, which is read only by those who name it")
        if heavy := self._alone().heavy:
            broken(
                f"it imports {', '.join(heavy)}; register and define options in modules that do not, and let the "
                "target import them"
            )

    def test_registering_changes_nothing(self) -> None:
        """Registering it leaves seeds, environment, signals and other people's functions as they are."""
        if changed := self._alone().changed:
            broken(f"it changes {', '.join(changed)}")

    def test_it_is_of_its_kind(self) -> None:
        """Its class can be imported, is of the kind it is registered as, and takes the options it says."""
        plugin = self.registry.find(self.kind, self.plugin)
        if (seen := self.imported).error is not None:
            broken(str(seen.error))
        if seen.changed:
            broken(f"importing its class changes {', '.join(seen.changed)}")
        if why := misfit(self.kind, seen.result, plugin.options_type):
            broken(why)

    def test_options_are_validated(self) -> None:
        """A wrong option is refused by name, and options do not change once they are checked."""
        with suppress(UsageError):
            self.registry.resolve(
                self.kind, Reference(self.plugin, self._member(), {**self.choose(), "no_such_option": 1})
            )
            broken("an option that there is not is taken without a word; leave extra='forbid' as it is")
        model = self.registry.find(self.kind, self.plugin).options_type
        if not model.model_config.get("frozen"):
            broken(f"{model.__name__} is not frozen")

    def _member(self) -> str | None:
        members = self.registry.find(self.kind, self.plugin).registration.members
        return self.member or (members[0] if members else None)

    def test_options_say_what_they_are(self) -> None:
        """The identity of its options is plain JSON, the same every time."""
        resolved = self.resolved
        try:
            texts = {json.dumps(resolved.options.identity(), sort_keys=True, allow_nan=False) for _ in range(2)}
        except (TypeError, ValueError) as error:
            broken(f"identity() is not plain JSON: {error}")
        if len(texts) != 1:
            broken("identity() says something else each time; stored results would never be found again")

    def test_the_spec_can_be_sent(self) -> None:
        """Name, options and registration can be pickled: a process elsewhere gets the same."""
        resolved = self.resolved
        spec = (resolved.reference, resolved.plugin.registration, resolved.options)
        try:
            again = pickle.loads(pickle.dumps(spec))
        except Exception as error:
            broken(f"{type(error).__name__}: {error}")
        options = again[2]
        if not isinstance(options, Options) or options != resolved.options or again[:2] != spec[:2]:
            broken("what comes out of a pickle is not what went in")

    def test_it_works(self) -> None:
        """It does what it is there for, on something small."""
        if error := self.seen().error:
            if isinstance(error, SkipTest):
                raise error
            broken(
                str(error)
                if isinstance(error, AssertionError | PluginError)
                else f"{type(error).__name__}: {error}"
            )

    def test_it_leaves_no_trace(self) -> None:
        """It leaves seeds, environment, signals and other people's functions as they are, even when it fails."""
        if changed := self.seen().changed:
            broken(f"it changes {', '.join(changed)}")

    def test_it_prints_nothing(self) -> None:
        """Nothing goes to standard output, which belongs to the command; logging goes elsewhere."""
        if printed := self.seen().printed:
            broken(f"it prints {printed[:80]!r}")


class PureConformance(Conformance):
    """The promises of what is a function of its inputs: the same again, nothing kept, nothing opened.

    opens_files: whether the kind reads files. keeps: how many bytes more it may hold after every single call.
    """

    opens_files: ClassVar[bool] = False
    keeps: ClassVar[int] = 65536  # bytes more after every single call: less may be a cache that fills

    def others_elsewhere(self, look: Look, *, far: bool = False) -> list[str]:
        """What a look at the plugin finds otherwise in a process of its own; see `elsewhere.others_elsewhere`."""
        files = [str(file_of(file)) for file in self.files]
        try:
            return others_elsewhere(look, self.resolved, files, self.patience, far=far)
        except RuntimeError as error:
            broken(f"in another process it fails: {error}")

    def test_it_repeats(self) -> None:
        """The same seed gives the same bits, whatever Python's and numpy's own generators would have drawn."""
        first = self.worked()
        random.random(), np.random.rand()
        again = self.seen("again")
        if again.error is not None:
            broken(f"it works once and not again: {type(again.error).__name__}: {again.error}")
        if found := difference(first.result, again.result):
            broken(f"{found} is not the same the second time; draw from torch's generators, or by a seed you get")

    def test_it_keeps_nothing(self) -> None:
        """Done over and over, it does not take more and more memory."""
        self.worked()
        growth = held_after(self.work)
        if min(growth) > self.keeps:
            broken(f"it holds {min(growth)} bytes more after every time")

    def test_files_of_options_count(self) -> None:
        """A file that an option names is in the identity by its content: changed, it is another plugin."""
        if self.kind == "dataset":
            raise SkipTest("what a dataset reads counts by its content anyway")
        given = self.resolved.options.model_dump(mode="json")
        opened = {name for name in self.worked().opened if Path(name).is_file()}
        named = {file: name for file in opened for name, value in given.items() if file in _texts(value)}
        if not named:
            raise SkipTest(f"no option that it is tried with names a file; {self.plugin}[OPTION=FILE] would")
        for file, name in sorted(named.items()):
            place = folder() / Path(file).name
            shutil.copyfile(file, place)
            elsewhere = json.loads(json.dumps(given).replace(json.dumps(file), json.dumps(str(place))))
            before = self._identity(elsewhere)
            place.write_bytes(b"something else")
            if self._identity(elsewhere) == before:
                broken(
                    f"the file of the option {name!r} may change and identity() says the same, so old results "
                    f"are taken: put identity.file_digest of it there"
                )

    def _identity(self, options: Mapping[str, Any]) -> str:
        """As the plan would have it; why there is none, where the content is refused."""
        try:
            return json.dumps(type(self.resolved.options).model_validate(options).identity(), sort_keys=True)
        except Exception as error:
            return repr(error)

    def test_it_opens_nothing(self) -> None:
        """While it works it opens no file, connection or process but those that its options name."""
        if self.opens_files:
            raise SkipTest("it is of a kind that opens files")
        given = json.dumps(self.resolved.options.model_dump(mode="json"))
        own = sys.modules[self.resolved.plugin.package]
        homes = tuple(
            f"{home}{os.sep}" for home in getattr(own, "__path__", ())
        )  # a package may read its own data
        if strange := [name for name in self.worked().opened if name not in given and not name.startswith(homes)]:
            broken(f"it opens {strange[0]}")
