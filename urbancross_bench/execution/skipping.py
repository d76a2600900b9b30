"""Which combinations of a grid cannot work or make no sense, and why."""

from __future__ import annotations

from collections.abc import Collection

from urbancross_bench.errors import nearest
from urbancross_bench.execution.domains import Domains, PlannedDomain
from urbancross_bench.execution.methods import PlannedMethod
from urbancross_bench.execution.supply import TRAINED_TOWER, PlannedEncoder
from urbancross_bench.interfaces.settings import Access
from urbancross_bench.specs import Pretraining, Scenario

OF_THE_HARNESS = frozenset({"reference"})  # what an adaptation may need that any encoder can give
_MAKE_SOME = "make some with `data segment` and name them under `segments`"


def reason_to_skip(
    scenario: Scenario,
    encoder: PlannedEncoder,
    method: PlannedMethod,
    domains: Domains,
    *,
    scored: Collection[str],
    pretraining: Pretraining,
) -> str:
    """Empty if the combination works. `scored` are the domains whose test splits it is ranked on."""
    access, needs = method.access, method.needs
    reason = _senseless(scenario, method.trained_setting, access)
    if reason:
        return reason
    if pretraining.trains and not encoder.trains:
        return f"encoder {encoder.name!r} has nothing that pre-training could change"
    missing = needs - encoder.provides - OF_THE_HARNESS
    if missing == {TRAINED_TOWER}:
        return (
            f"encoder {encoder.name!r} has no tower to train, and adaptation {method.name!r} trains nothing else"
        )
    if missing:
        near = nearest(min(missing), encoder.provides | OF_THE_HARNESS)
        hint = f" (is {near!r} meant?)" if near is not None else ""
        return f"encoder {encoder.name!r} does not provide {', '.join(sorted(missing))}{hint}"
    if method.trains and not encoder.trains:
        trained = str(method.trained.reference)  # the base of a calibration
        return f"encoder {encoder.name!r} has nothing that adaptation {trained!r} could train"
    for name in scenario.domains:
        domain = domains[name]
        if encoder.format and not domain.domain.images.has_pixels:
            return f"domain {name!r} holds no pixels, and encoder {encoder.name!r} needs them"
        in_training = name in scenario.source or (access.images and name == scenario.target)
        taken = name in scored and encoder.at_retrieval
        taken |= in_training and (encoder.at_retrieval or "segments" in needs)
        taken |= name in scenario.source and encoder.pretrains_on_segments(pretraining.segment_weight)
        # Which caption belongs to which image is a secret where images are ranked, or shown without their pairs.
        secret = (name in scored and encoder.at_retrieval) or not (name in scenario.source or access.pairs)
        reason = _lacking(encoder, domain, secret=secret) if taken else ""
        if reason:
            return reason
    return ""


def _senseless(scenario: Scenario, setting: str, access: Access) -> str:
    if scenario.kind == "in_domain" and access.anything:
        return "in-domain: there is no target to adapt to"
    if access.share and scenario.share is None:
        return "few-shot methods need a scenario with a share of the target's pairs (share: 0.05)"
    if scenario.share is not None and not access.share:
        return "a scenario with a share of the target's pairs is for few-shot methods"
    if setting == "generalisation" and len(scenario.source) < 2:
        return "generalisation needs several sources"
    return ""


def _lacking(encoder: PlannedEncoder, domain: PlannedDomain, *, secret: bool) -> str:
    """What segments a domain lacks, or has and must not show where the pairs are `secret`."""
    use, segments = encoder.segments, domain.domain.segments
    assert use is not None, "only an encoder that uses segments takes any"
    if segments is None:
        return f"encoder {encoder.name!r} uses segments, and domain {domain.name!r} has none; {_MAKE_SOME}"
    used = domain.splits if encoder.at_retrieval else ("train",)
    bare = [name for name in used if not any(domain.splits[name].segments)]
    if bare:
        more = f"the `data segment` command that made {domain.segments} adds them with `--split {','.join(bare)}`"
        return (
            f"encoder {encoder.name!r} uses segments, and no image of domain {domain.name!r} in {', '.join(bare)} "
            f"has any; {more if domain.segments else _MAKE_SOME}"
        )
    if secret and segments.caption_aware and not use.caption_aware:
        return (
            f"the segments of domain {domain.name!r} were, or may have been, chosen with the images' own "
            "captions, which gives the answer away; encoder option caption_aware=true uses them all the same"
        )
    return ""
