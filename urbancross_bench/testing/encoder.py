"""What an encoder promises."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from unittest import SkipTest

import numpy as np

from urbancross_bench.identity import key_of
from urbancross_bench.interfaces import EncoderOptions, ImageFormat
from urbancross_bench.registry import Resolved
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_captions, tiny_images

_COUNT = 4


def tokens_and_weights(resolved: Resolved) -> dict[str, str]:
    """Keys of what it makes of some captions, and of what it starts from."""
    import torch

    from urbancross_bench.modelling.answers import load_model
    from urbancross_bench.modelling.saving import raw_bytes

    torch.manual_seed(0)
    model = load_model(resolved)
    weights = {
        name: sha256(raw_bytes(value).numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    return {"tokens": key_of(model.tokenize(tiny_captions(_COUNT)).tolist()), "first weights": key_of(weights)}


class EncoderConformance(PureConformance):
    """Of an encoder that reads stored features (`image_format()` is None) what is said of towers is skipped."""

    kind = "encoder"
    opens_files = True  # its weights

    def work(self) -> Any:
        """Load the model, and encode some images and texts."""
        import torch

        model = self._load()
        if self._format() is None:
            return {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            images, texts = model.encode_image(self._images(model)), model.encode_text(self._tokens(model))
        for name, features in (("encode_image", images), ("encode_text", texts)):
            if tuple(features.shape) != (_COUNT, model.width):
                broken(f"{name} gives {tuple(features.shape)} for {_COUNT} items and a width of {model.width}")
            if not bool(features.isfinite().all()):
                broken(f"{name} gives something that is no number")
        return {"images": images, "texts": texts}

    def _options(self) -> EncoderOptions:
        options = self.resolved.options
        if not isinstance(options, EncoderOptions):
            broken(
                "its options are not a subclass of EncoderOptions, which answers what planning asks; register it "
                'with options="package.module:Options"'
            )
        return options

    def _format(self) -> ImageFormat | None:
        return self._options().image_format()

    def _images(self, model: Any, count: int = _COUNT, shade: int = 0) -> Any:
        """(B, 3, S, S), normalised as the harness does it."""
        import torch

        wanted = self._format()
        if wanted is None:
            raise SkipTest("it takes no pixels")
        pixels = torch.from_numpy(tiny_images(count, wanted.size, shade)).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.mean, model.std))
        return (pixels - mean) / std

    @staticmethod
    def _tokens(model: Any) -> Any:
        return model.tokenize(tiny_captions(_COUNT)[:_COUNT])

    def _loaded(self) -> Any:
        """One model for the promises that only look."""
        self.worked()
        return self.once("model", self._load)

    def _load(self) -> Any:
        from urbancross_bench.modelling.answers import load_model

        return load_model(self.resolved).train(False)

    def test_planning_can_ask(self) -> None:
        """Its options answer what planning asks: image format, what is trained, segments, weights, identity."""
        from urbancross_bench.execution.supply import PlannedEncoder

        planned = PlannedEncoder("this", self.resolved)  # raises where there is no answer
        if planned.format is not None and not planned.format.size > 0:
            broken(f"image_format() is {planned.format!r}: images of no size")
        if strange := planned.frozen - {"image", "text"}:
            broken(f"frozen() names {sorted(strange)}; a tower is image or text")
        if (planned.segments is not None) != ("segments" in self.resolved.plugin.registration.provides):
            broken("segments() and provides={'segments'} do not agree")

    def test_it_has_the_members_of_a_dual_encoder(self) -> None:
        """Its model is a module with width, mean, std, two towers, and one number for the scale."""
        model = self._loaded()  # with what no run can do without
        for name in ("image_tower", "text_tower", "logit_bias", "blocks"):  # what some methods ask for
            if not hasattr(model, name):
                broken(f"its model has no {name}; see interfaces.DualEncoder")
        if self._format() is not None and len(model.mean) != 3:
            broken("mean has not one number for each of red, green and blue")

    def test_it_starts_the_same_elsewhere(self) -> None:
        """Another process, whose sets and hashes have another order, has the same tokens and first weights."""
        self._loaded()
        if others := self.others_elsewhere(tokens_and_weights):
            broken(
                f"its {' and '.join(others)} are others in another process, so no result could be had again: sort "
                "what comes out of a set, and number words by anything but hash()"
            )

    def test_texts_may_come_in_any_order(self) -> None:
        """A text has the tokens that it has after others: none is numbered by when it was first seen."""
        import torch

        if self._format() is None:
            raise SkipTest("what it makes of texts serves to compare them alone")
        texts = tiny_captions(_COUNT)[:_COUNT]
        one, other = self._load().tokenize(texts), self._load().tokenize(texts[::-1]).flip(0)
        if not torch.equal(one, other):
            broken("texts have other tokens when they come in another order, and so other features in another run")

    def test_features_stand_for_what_a_frozen_tower_took(self) -> None:
        """Where its options say that a tower never changes, features given for items come back as they are."""
        import torch

        from urbancross_bench.modelling.answers import unlike_features

        model = self._loaded()
        if self._format() is None or not (frozen := self._options().frozen()):
            raise SkipTest("no tower of it is frozen")
        with torch.no_grad():
            features = {
                "image": model.encode_image(self._images(model)),
                "text": model.encode_text(self._tokens(model)),
            }
            for side in sorted(frozen):
                if why := unlike_features(model, side, features[side]):
                    broken(why)

    def test_a_batch_of_one(self) -> None:
        """An item alone has the features that it has among others."""
        import torch

        model = self._loaded()
        images, tokens = self._images(model), self._tokens(model)
        with torch.no_grad():
            for name, encode, items in (
                ("image", model.encode_image, images),
                ("text", model.encode_text, tokens),
            ):
                together, alone = encode(items), torch.cat([encode(items[i : i + 1]) for i in range(len(items))])
                if not torch.allclose(together, alone, atol=1e-3, rtol=1e-3):
                    far = float((together - alone).abs().max())
                    broken(f"{name}s have other features alone than among others, by up to {far:.2g}")

    def test_segments_have_features(self) -> None:
        """Where its options say that it uses segments, its model encodes them, alone and beside images."""
        import torch

        model, segments, present = self._with_segments()
        if tuple(segments.shape[2:]) != (model.width,) or not bool(segments.isfinite().all()):
            broken(
                f"encode_segment gives {tuple(segments.shape[2:])} for a segment and a width of {model.width}, "
                "or something that is no number"
            )
        with torch.no_grad():
            features = model.encode_image(self._images(model), segments, present)
        if tuple(features.shape) != (_COUNT, model.width) or not bool(features.isfinite().all()):
            broken(f"with segments encode_image gives {tuple(features.shape)}, or something that is no number")

    def test_segments_are_a_set(self) -> None:
        """Neither the order of segments nor what stands where none is counts; without any, an image is itself."""
        import torch
        from torch.nn.functional import normalize

        model, segments, present = self._with_segments()
        images, there = self._images(model), int(present.sum(dim=1).max())
        with torch.no_grad():
            first, without = model.encode_image(images, segments, present), model.encode_image(images)
            others = {
                "with the segments in another order": (segments.flip(1), present.flip(1)),
                "without places at which no segment is": (segments[:, :there], present[:, :there]),
                "with something else where no segment is": (
                    segments.masked_fill(~present[..., None], 1e4),
                    present,
                ),
            }
            pairs = {how: (first, model.encode_image(images, *more)) for how, more in others.items()}
        pairs["without any segment"] = without[:1], first[:1]  # as where none are at hand
        for how, (one, other) in pairs.items():
            # Of any length: only directions are ever compared.
            if not torch.allclose(normalize(one, dim=1), normalize(other, dim=1), atol=1e-4):
                broken(f"{how}, an image has other features; see interfaces.SegmentEncoder")

    def _with_segments(self) -> tuple[Any, Any, Any]:
        """The model, (B, K, D) of segments, and (B, K) which are there: none of the first image, nor the last."""
        import torch

        model, use = self._loaded(), self._options().segments()
        if use is None:
            raise SkipTest("it uses no segments")
        images, most = self._images(model), min(use.most, 4)
        if not hasattr(model, "encode_segment"):
            broken("its options have segments(), and its model no encode_segment; see interfaces.SegmentEncoder")
        with torch.no_grad():
            found = model.encode_segment(self._images(model, _COUNT * most, 40))
        present = torch.ones(_COUNT, most, dtype=torch.bool)
        present[0] = False
        present[:, most - 1] &= most == 1
        segments = found.view(_COUNT, most, -1) * present[..., None]
        try:
            with torch.no_grad():
                model.encode_image(images, segments, present)
        except TypeError as error:
            broken(f"its encode_image cannot be given segments: {error}; see interfaces.SegmentEncoder")
        return model, segments, present

    def test_texts_are_cut_exactly(self) -> None:
        """Cut to the length that `text_length` says, texts keep their features."""
        import torch

        model = self._loaded()
        if self._format() is None:
            raise SkipTest("it takes no texts")
        tokens = self._tokens(model)
        if tokens.ndim != 2 or tokens.dtype != torch.int64:
            broken(f"tokenize gives {tuple(tokens.shape)} of {tokens.dtype}, not (B, L) int64")
        length = model.text_length(tokens)
        with torch.no_grad():
            whole, cut = model.encode_text(tokens), model.encode_text(tokens[:, :length])
        if not torch.allclose(whole, cut, atol=1e-4, rtol=1e-4):
            broken(f"cut to {length} of {tokens.shape[1]} columns, texts have other features")

    def test_it_embeds_in_bfloat16(self) -> None:
        """With weights of that type, as grids of that `evaluation_precision` embed, its features are numbers."""
        import torch

        from urbancross_bench.modelling.runtime import autocast, lowered

        model = self._loaded()
        if self._format() is None:
            raise SkipTest("it takes no pixels and no texts")
        low = lowered(model, "bfloat16")
        with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):
            features = low.encode_image(self._images(model)), low.encode_text(self._tokens(model))
        for name, found in zip(("encode_image", "encode_text"), features, strict=True):
            if tuple(found.shape) != (_COUNT, model.width) or not bool(found.isfinite().all()):
                broken(f"in bfloat16 {name} gives {tuple(found.shape)}, or something that is no number")

    def test_gradients_reach_both_towers(self) -> None:
        """Where it says that it provides gradients, it can be trained."""
        if "gradients" not in self.resolved.plugin.registration.provides:
            raise SkipTest("it does not say that it provides gradients")
        model = self._loaded()
        frozen = self._options().frozen()
        if self._format() is None or frozen:
            raise SkipTest("a tower of it never changes")
        model.zero_grad(set_to_none=True)
        (model.encode_image(self._images(model)).sum() + model.encode_text(self._tokens(model)).sum()).backward()
        for name in ("image_tower", "text_tower"):
            if not any(
                one.grad is not None and bool((one.grad != 0).any()) for one in getattr(model, name).parameters()
            ):
                broken(f"no gradient reaches its {name}")
        model.zero_grad(set_to_none=True)

    def test_weights_go_round(self) -> None:
        """The state of a model fits another of the same options, and gives its features; when trained, too."""
        first = self.worked().result
        state = self.watched(self._state).result  # seeded as what came first was
        other = self._with_state(state)
        if self._format() is None:
            return
        self._expect_features(other, first, "after load_state_dict")
        if "gradients" in self.resolved.plugin.registration.provides:
            model = self._load()
            _step(model, self._images(model), self._tokens(model))
            trained = self._with_state(model.state_dict())
            self._expect_features(trained, self._features(model), "after a step of training and load_state_dict")

    def _state(self) -> Any:
        return {name: value.clone() for name, value in self.build().load().state_dict().items()}

    def _with_state(self, state: Any) -> Any:
        import torch

        torch.manual_seed(1)
        other = self.build().load()
        other.load_state_dict(state)
        return other

    def _features(self, model: Any) -> dict[str, Any]:
        import torch

        model.train(False)
        with torch.no_grad():
            return {
                "images": model.encode_image(self._images(model)),
                "texts": model.encode_text(self._tokens(model)),
            }

    def _expect_features(self, model: Any, wanted: Mapping[str, Any], when: str) -> None:
        for name, features in self._features(model).items():
            if not np.allclose(features.numpy(), wanted[name].numpy(), atol=1e-5):
                broken(f"{when} features of {name} are not those of the model that the state is of")


def _step(model: Any, images: Any, tokens: Any) -> None:
    """Train a model a little on images and texts, as many of each."""
    import torch
    from torch.nn.functional import cosine_similarity

    model.train(True)
    loss = cosine_similarity(model.encode_image(images), model.encode_text(tokens)).sum()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
