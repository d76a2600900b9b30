"""What an adaptation promises, tried by the harness's own training loop on domains of a few tiles."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast
from unittest import SkipTest

import numpy as np

from urbancross_bench.errors import FirewallError, UsageError, some
from urbancross_bench.execution.supply import TRAINED_TOWER, PlannedEncoder
from urbancross_bench.interfaces import SETTINGS, Adaptation, ImageFormat, SegmentUse
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_features, tiny_segments, tiny_split
from urbancross_bench.testing.watching import folder

if TYPE_CHECKING:
    from urbancross_bench.modelling.saving import Saves

_STEPS = 3
_LONGER = 6  # of a training that is cut: methods change phase, and make what they keep, in some later step


class AdaptationConformance(PureConformance):
    """encoder: the reference of an encoder to adapt, such as `openclip[architecture=urbancross-tiny]`, for a
    method that the kit's own tiny one does not suit; it must provide what the method needs.
    """

    kind = "adaptation"
    encoder: ClassVar[str] = ""

    def work(self) -> Any:
        """Train on two sources and the target that the setting shows; or calibrate."""
        if self._setting == "test_time":
            return self.calibrated()
        return self.trained()

    @property
    def _setting(self) -> str:
        setting = self.registry.find(self.kind, self.plugin).registration.setting
        assert setting is not None, "the registry takes no adaptation without one"
        return setting

    @property
    def _needs(self) -> frozenset[str]:
        return self.resolved.plugin.registration.needs | self.resolved.options.needs()

    def prepare(self) -> None:
        """Import the method and the model, which may change what a method may not."""
        super().prepare()
        if self._setting != "test_time":
            self._model()

    def _model(self) -> Any:
        """A fresh copy of one starting model. Raises SkipTest where it lacks what the method needs."""

        def load() -> Any:
            import torch

            torch.manual_seed(0)
            if not self.encoder:
                from urbancross_bench.testing.fixtures.model import TinyDualEncoder, TinySegmentEncoder

                return TinySegmentEncoder() if "segments" in self._needs else TinyDualEncoder()
            return self.registry.resolve("encoder", self.encoder).build().load()

        provides = frozenset({"gradients", "segments", TRAINED_TOWER})
        if self.encoder:
            provides = self._encoder().provides
        if lacking := self._needs - {"reference"} - provides:
            raise SkipTest(
                f"needs {', '.join(sorted(lacking))} of an encoder, which the kit's tiny one does not provide"
            )
        return copy.deepcopy(self.once("start", load))

    def _encoder(self) -> PlannedEncoder:
        """Asked once: its options may read files, which are not the method's."""
        resolve = partial(self.registry.resolve, "encoder", self.encoder)
        return self.once("encoder", lambda: PlannedEncoder(self.encoder, resolve()))

    def _split(self, model: Any, **looks: Any) -> Any:
        """A split as the encoder takes it, with segments where the method needs them."""
        size, use = 32, SegmentUse(2, "shared", at_retrieval=True)
        if self.encoder:
            encoder = self._encoder()
            size, use = cast(ImageFormat, encoder.format).size, cast(SegmentUse, encoder.segments)
        if "segments" not in self._needs:
            return tiny_split(size=size, **looks)
        import torch

        from urbancross_bench.modelling.embed import embed_segments

        segments = tiny_segments(use.most, size=size, shade=looks.get("shade", 0))
        if use.tower != "shared":
            features = embed_segments(model, segments, torch.device("cpu"))
            segments = tiny_segments(use.most, values=features.numpy())
        return tiny_split(size=size, segments=segments, **looks)

    def trained(
        self,
        *,
        method: Adaptation | None = None,
        hidden: int = 0,
        batch: int = 6,
        device: str = "cpu",
        precision: str = "float32",
        steps: int = _STEPS,
        saves: Saves | None = None,
        report: Callable[[float], None] = lambda _: None,
    ) -> dict[str, Any]:
        """What is left of a training: each candidate's tensors by name.

        method: by default a fresh one. hidden: another number changes what the setting hides of the target, and
        nothing else.
        """
        import torch

        from urbancross_bench.data.views import Shown, source_view, target_view
        from urbancross_bench.modelling.answers import candidates, extended
        from urbancross_bench.modelling.checkpoints import plain
        from urbancross_bench.modelling.curve import Curve
        from urbancross_bench.modelling.feeds import Feed
        from urbancross_bench.modelling.loop import train
        from urbancross_bench.specs import Budget

        start = self._model()
        method = method or self.build()
        sources = [self._split(start), self._split(start, shade=-20, place="place")]
        target = self._target(start, hidden)
        model = extended(method, start)
        model.to(torch.device(device))
        shown = Shown(self._setting, share=0.5)
        options: dict[str, Any] = {
            "augmentation": (),
            "device": torch.device(device),
            "hidden": f"the setting is {self._setting!r}",
            "references": "reference" in self._needs,
        }
        steps = steps if "gradients" in self._needs else 0
        found: dict[str, Any] = {}
        for step in train(
            model,
            method,
            Feed(model, source_view(sources), batch_size=batch, seed=1, **options),
            Feed(model, target_view(target, shown, 2), batch_size=batch, seed=2, **options),
            Budget(steps=steps, batch_size=batch, target_batch_size=batch, learning_rate=1e-3),
            loss_name="info_nce",
            precision=precision,
            device=torch.device(device),
            curve=Curve(),
            report=report,
            on_pass=lambda _: None,
            saves=saves,
        ):
            for name, state in candidates(method, model).items():
                kept = {key: value.clone() for key, value in plain(state).items()}
                if bad := [key for key, value in kept.items() if bool(value.isnan().any())]:  # masks are infinite
                    broken(f"after step {step} {some(bad, 3)} of its model hold what is no number")
                found[f"{step} {name}".strip()] = kept
        return found

    def _target(self, model: Any, hidden: int) -> Any:
        """The target's training split, other in what the setting hides for another number."""
        access = SETTINGS[self._setting]
        if access.images and access.captions:  # who belongs to whom
            return self._split(model, shade=30, pairing=hidden)
        if access.images:
            return self._split(model, shade=30, place=f"plain{hidden}")
        return self._split(model, shade=30 + hidden, place=f"plain{hidden}")

    def calibrated(self, images: int = 12) -> Any:
        """The calibrated features of a test split."""
        features = tiny_features(images)
        given = features.images.copy(), features.texts.copy()
        result = self.build().calibrate(*given)
        if difference([*given], [features.images, features.texts]):
            broken("calibrate changes the features it is given; take a copy")
        sizes = (len(result.images), len(result.texts))
        if sizes != (len(features.images), len(features.texts)):
            broken(
                f"calibrate gives {sizes[0]} images and {sizes[1]} texts for {images} and {len(features.texts)}"
            )
        for name in ("images", "texts", "image_bias", "text_bias"):
            values = getattr(result, name)
            if values is not None and not np.isfinite(values).all():
                broken(f"calibrate gives {name} that are no numbers")
        return result

    def test_it_asks_for_what_it_may_see(self) -> None:
        """It asks for nothing that its setting hides."""
        error = self.seen().error
        if isinstance(error, FirewallError):
            said = str(error)
            broken(said if "needs=" in said else f"{said}; register it with the setting that shows this")

    def test_hidden_data_changes_nothing(self) -> None:
        """What its setting hides of the target (pairs, captions, all of it) moves no bit of what it trains."""
        setting = self._setting
        if SETTINGS[setting].pairs or setting == "test_time":
            raise SkipTest(f"the setting {setting} " + ("calibrates" if setting == "test_time" else "shows pairs"))
        first = self.worked().result
        again = self.watched(lambda: self.trained(hidden=7))
        if again.error is not None:
            broken(f"with other hidden data it fails: {type(again.error).__name__}: {again.error}")
        if found := difference(first, again.result):
            broken(f"{found} is another where only hidden data is: it sees what its setting hides")

    def test_training_moves_the_model(self) -> None:
        """A method that is trained leaves other weights than it began with; all of them fit the model."""
        result = self.worked().result
        if self._setting == "test_time":
            raise SkipTest("a calibration trains nothing")
        start = self._model()
        before = {name: value.clone() for name, value in start.state_dict().items()}
        model = self.build().extend(start)
        for name, state in result.items():
            try:
                model.load_state_dict(state)
            except RuntimeError as error:
                broken(f"candidate {name!r} does not fit what extend makes of the model: {error}")
        last = next(reversed(result.values()))
        still = all(key in last and bool((last[key] == value).all()) for key, value in before.items())
        if "gradients" in self._needs and still and last.keys() <= before.keys():
            broken("after training every weight is what it was")

    def test_all_of_it_trains(self) -> None:
        """Weights of its own that get gradients are trained, and no loss is a number that nothing can lower."""
        self.worked()
        if "gradients" not in self._needs:
            raise SkipTest("it takes no step")
        method: Adaptation = self.build()
        moved: set[str] = set()  # losses with a gradient, or 0
        told: set[str] = set()
        once: dict[str, Any] = {}  # weights after their first step
        loss = method.loss

        def watched(source: Any, target: Any, progress: Any) -> Any:
            found = loss(source, target, progress)
            told.update(found)
            moved.update(name for name, value in found.items() if value.requires_grad or not value.any())
            return found

        def look(_: float) -> None:
            for name, value in _weights(method):
                once.setdefault(name, value.detach().clone())

        method.loss = watched  # type: ignore[method-assign]
        self.watched(lambda: self.trained(method=method, report=look))
        for name, value in _weights(method):
            if value.grad is not None and value.grad.any() and bool((value == once.get(name, value)).all()):
                broken(
                    f"self.{name} gets gradients and is never trained: put it into a group of parameter_groups, "
                    "or freeze it by requires_grad_(False)"
                )
        if still := sorted(told - moved):
            broken(
                f"the loss {still[0]!r} depends on no weight that is trained; compute it with gradients, or give "
                "it to context.log"
            )

    def test_a_batch_of_one(self) -> None:
        """Batches of one, and a query alone, are trained on or refused in words."""
        self.worked()
        work = (lambda: self.calibrated(1)) if self._setting == "test_time" else lambda: self.trained(batch=1)
        self.copes_with("one query" if self._setting == "test_time" else "batches of one", work)

    def test_it_trains_in_half_precision(self) -> None:
        """At bfloat16 and float16, which a recipe may ask for, it trains as it does at float32, or is refused."""
        self.worked()
        if "gradients" not in self._needs:
            raise SkipTest("it takes no step")
        for precision in ("bfloat16", "float16"):
            seen = self.watched(partial(self.trained, precision=precision))
            if seen.error is not None and not isinstance(seen.error, UsageError):
                broken(f"at {precision} it fails: {type(seen.error).__name__}: {seen.error}")

    def test_it_goes_on_after_a_kill(self) -> None:
        """Cut after each step it goes on to the same bits: all that changes is in attributes that are saved."""
        self.worked()
        if "gradients" not in self._needs:
            raise SkipTest("it takes no step")
        whole = self.watched(lambda: self.trained(steps=_LONGER))
        if whole.error is not None:
            broken(f"in {_LONGER} steps: {type(whole.error).__name__}: {whole.error}")
        import torch

        from urbancross_bench.modelling.saving import Saves
        from urbancross_bench.modelling.unsaved import left_out

        place, methods = folder() / "saved", list[Adaptation]()

        def of_two_steps() -> dict[str, Any] | None:
            """What is left of a training that goes on; None if it was cut, before its second step is saved."""
            reported = list[float]()

            def stop(fraction: float) -> None:
                reported.append(fraction)
                if len(reported) == 2:
                    raise _CutError

            methods.append(self.build())
            try:
                return self.trained(method=methods[-1], steps=_LONGER, saves=Saves(place, 0), report=stop)
            except _CutError:
                torch.manual_seed(99 + len(methods))  # what is drawn anew is not what was saved
                return None

        def cut_and_go_on() -> Any:
            return next(filter(None, (of_two_steps() for _ in range(_LONGER))), None)

        seen = self.watched(cut_and_go_on)
        if seen.error is not None:
            broken(f"{type(seen.error).__name__}: {seen.error}")
        if found := difference(whole.result, seen.result):
            kept = left_out(methods[-1])
            broken(f"{found} is another after a kill" + (f"; not saved: {kept}" if kept else ""))

    def test_it_runs_where_it_is_put(self) -> None:
        """It trains on whatever device it is told to, and comes to about the same."""
        if self._setting == "test_time":
            raise SkipTest("a calibration is made on the CPU")
        first = self.worked().result
        import torch

        if not torch.cuda.is_available():
            raise SkipTest("there is no CUDA device here; on the CPU it runs")
        seen = self.watched(lambda: self.trained(device="cuda"))
        if seen.error is not None:
            broken(f"on CUDA: {type(seen.error).__name__}: {seen.error}")
        if seen.result.keys() != first.keys():
            broken("on CUDA it leaves other candidates")

    def test_a_calibration_keeps_the_order(self) -> None:
        """Items in another order are calibrated alike and given back in that order."""
        if self._setting != "test_time":
            raise SkipTest("it is no calibration")
        first, features = self.worked().result, tiny_features()
        order = np.random.default_rng(3).permutation(len(features.texts))
        again = self.build().calibrate(features.images.copy(), features.texts[order].copy())
        for name, one, other in (
            ("texts", first.texts[order], again.texts),
            ("text_bias", None if first.text_bias is None else first.text_bias[order], again.text_bias),
            ("images", first.images, again.images),
        ):
            if one is not None and not np.allclose(one, other, atol=1e-4):
                broken(f"{name} are others when the texts come in another order")


def _weights(method: Adaptation) -> Iterator[tuple[str, Any]]:
    """What a method keeps itself and gradients can reach, by name: parameters of modules, and tensors."""
    import torch

    for name, value in vars(method).items():
        if isinstance(value, torch.nn.Module):
            yield from ((f"{name}.{part}", weight) for part, weight in value.named_parameters())
        elif isinstance(value, torch.Tensor) and value.is_leaf and value.requires_grad:
            yield name, value


class _CutError(Exception):
    """The training was cut here."""
