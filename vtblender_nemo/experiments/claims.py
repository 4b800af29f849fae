"""Claims: inequalities of measures, read by a small grammar and judged by intervals.

    joint.text.accuracy - joint.text.base_accuracy >= -1
    joint.asr.wer <= speech_only.asr.wer + noise
    *.text.accuracy >= 90

A measure is VARIANT.MEASURE; a variant `*` makes one claim of every variant. Both sides are sums of measures, each with an
optional factor (`2 * joint.asr.wer`), numbers, and `noise`: what another seed alone would change (`estimates.repeatability`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtblender_nemo.common.errors import ConfigError
from vtblender_nemo.experiments.estimates import Estimate, Runs, Unmeasured, estimate, repeatability

HOLDS, FAILS, UNDECIDED, UNMEASURED = "holds", "does not hold", "undecided", "not measured"
EVERY = "*"
_NOISE = "noise"
_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)|(?P<name>(?:\*(?=\.)|[A-Za-z]\w*)(?:\.\w+)*)|(?P<relation>>=|<=|>|<)|(?P<sign>[-+*])"
)


@dataclass(frozen=True)
class Claim:
    """`margin >= 0`, where the margin is a sum.

    Attributes:
        text: as it was written.
        says: the same in words.
        terms: (variant, measure) -> factor.
        constant: of the sum.
        noise: how often `noise` is added to it.
    """

    text: str
    says: str
    terms: Mapping[tuple[str, str], float]
    constant: float
    noise: float


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs say of it.

    Attributes:
        claim: what was claimed; of a claim on every variant, the one on one of them.
        verdict: one of `HOLDS`, `FAILS`, `UNDECIDED`, `UNMEASURED`.
        margin: by how much it holds (below 0: by how much it does not); None if it was not measured.
        noise: the value of `noise`, where the claim names it.
        reason: why it is undecided or not measured.
    """

    claim: Claim
    verdict: str
    margin: Estimate | None = None
    noise: float | None = None
    reason: str = ""


def read_claims(entries: Sequence[Any]) -> list[Claim]:
    """
    Raises:
        ConfigError: a claim that is not of the grammar above.
    """
    claims = []
    for number, entry in enumerate(entries):
        place = f"sweep.claims[{number}]"
        if not isinstance(entry, Mapping) or set(entry) - {"claim", "says"} or not isinstance(entry.get("claim"), str):
            raise ConfigError("no claim", value=entry, expected="{claim: inequality, says: words}", knob=place)
        claims.append(read_claim(entry["claim"], str(entry.get("says", "")), place))
    return claims


def read_claim(text: str, says: str = "", place: str = "claim") -> Claim:
    """
    Raises:
        ConfigError: as `read_claims`.
    """
    tokens = list(_tokens(text, place))
    relations = [position for position, (kind, _) in enumerate(tokens) if kind == "relation"]
    if len(relations) != 1:
        raise _unreadable(text, "one of >=, <=, >, <", place)
    middle = relations[0]
    left, right = (_read_sum(side, text, place) for side in (tokens[:middle], tokens[middle + 1 :]))
    upwards = tokens[middle][1].startswith(">")
    greater, smaller = (left, right) if upwards else (right, left)
    total: dict[str, float] = dict(greater)
    for name, factor in smaller.items():
        total[name] = total.get(name, 0.0) - factor
    constant, noise = total.pop("", 0.0), total.pop(_NOISE, 0.0)
    terms = {}
    for name, factor in total.items():
        variant, _, measure = name.partition(".")
        if not measure:
            raise _unreadable(text, f"a measure of the variant, as {name}.asr.wer", place)
        if factor:
            terms[variant, measure] = factor
    if not terms:
        raise _unreadable(text, "a measure, as joint.asr.wer", place)
    return Claim(text, says, terms, constant, noise)


def judge(claim: Claim, runs: Runs) -> list[Judged]:
    """Holds where the whole interval of the margin is at or above 0, does not where it is below; else it is undecided.

    Returns:
        One judgement; of a claim on every variant, one for each.
    """
    if not any(variant == EVERY for variant, _ in claim.terms):
        return [_judge(claim, runs)]
    variants = sorted({variant for variant, _ in runs})
    return [_judge(_of_variant(claim, variant), runs) for variant in variants] or [
        Judged(claim, UNMEASURED, reason="no finished run")
    ]


def _judge(claim: Claim, runs: Runs) -> Judged:
    noise = repeatability(runs, claim.terms) if claim.noise else None
    try:
        margin = estimate(runs, claim.terms, claim.constant + claim.noise * (noise or 0.0))
    except Unmeasured as error:
        return Judged(claim, UNMEASURED, reason=str(error))
    if len(margin.by_seed) < 2:
        return Judged(claim, UNDECIDED, margin, noise, "one seed does not tell what another would have given")
    if claim.noise and noise is None:
        return Judged(claim, UNDECIDED, margin, noise, "noise needs two seeds of a variant")
    if margin.low >= 0:
        return Judged(claim, HOLDS, margin, noise)
    if margin.high < 0:
        return Judged(claim, FAILS, margin, noise)
    return Judged(claim, UNDECIDED, margin, noise, "the interval holds both signs")


def _of_variant(claim: Claim, variant: str) -> Claim:
    terms: dict[tuple[str, str], float] = {}
    for (name, measure), factor in claim.terms.items():
        key = (variant if name == EVERY else name, measure)
        terms[key] = terms.get(key, 0.0) + factor
    text = claim.text.replace(f"{EVERY}.", f"{variant}.")
    return Claim(text, claim.says, {key: f for key, f in terms.items() if f} or terms, claim.constant, claim.noise)


def _tokens(text: str, place: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        found = _TOKEN.match(text, position)
        if found is None:
            raise _unreadable(text, f"names, numbers and signs; not {text[position]!r}", place)
        assert found.lastgroup is not None
        yield found.lastgroup, found.group()
        position = found.end()


def _read_sum(tokens: Sequence[tuple[str, str]], text: str, place: str) -> dict[str, float]:
    """Name -> factor; the constant under an empty name."""
    total: dict[str, float] = {}
    rest = list(tokens)
    first = True
    while rest or first:
        sign = 1.0
        if rest and rest[0][0] == "sign" and rest[0][1] in "+-":
            sign = -1.0 if rest.pop(0)[1] == "-" else 1.0
        elif not first:
            raise _unreadable(text, f"a sign before {rest[0][1]}", place)
        name, factor = _read_term(rest, text, place)
        total[name] = total.get(name, 0.0) + sign * factor
        first = False
    return total


def _read_term(rest: list[tuple[str, str]], text: str, place: str) -> tuple[str, float]:
    """Takes a name, a number, or number * name from the front."""
    if not rest or rest[0][0] not in ("number", "name"):
        raise _unreadable(text, "a number or a measure after every sign", place)
    kind, value = rest.pop(0)
    if kind == "name":
        return value, 1.0
    if rest and rest[0] == ("sign", "*"):
        rest.pop(0)
        if not rest or rest[0][0] != "name":
            raise _unreadable(text, "a measure after *", place)
        return rest.pop(0)[1], float(value)
    return "", float(value)


def _unreadable(text: str, expected: str, place: str) -> ConfigError:
    return ConfigError("the claim cannot be read", value=text, expected=expected, knob=place)
