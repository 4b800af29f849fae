"""What `python -m tests.fuzz` looks for in minutes, in seconds: changed inputs raise our own errors alone.

Every change follows from the number of its case, so that a failure comes again.
"""

from __future__ import annotations

import random

import pytest

from tests.fuzz import mutate
from tests.fuzz.mutate import dumped, mutated, parsed
from tests.fuzz.targets import NAMES, Target, open_target

CASES = 100


@pytest.fixture(scope="module", params=NAMES)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    return open_target(request.param, tmp_path_factory.mktemp(request.param))


def test_a_seed_of_every_kind_is_taken(target: Target) -> None:
    taken = {case[0] for case in target.seeds if target.read(case)}
    assert taken == set(target.readers)


def test_what_is_changed_raises_our_errors_alone(target: Target) -> None:
    taken = 0
    for number in range(CASES):
        rng = random.Random(number)
        case = mutated(rng.choice(target.seeds), target.seeds, rng)
        try:
            taken += target.read(case)
        except Exception as error:
            raise AssertionError(f"case {number}: {dumped(list(case))[:2000]}") from error
    assert taken > CASES / 20  # some changes leave an input valid: the readers are not refusing everything


def test_inputs_are_what_was_written() -> None:
    deep = mutate._deep(100_000, True)
    assert dumped(deep).startswith("[[[[")
    assert parsed(f'["a", {dumped([1, "x"])}]'.encode()) == ("a", [1, "x"])
    for data in (b"", b"[1, 2]", b"\xff", b'["a"]', b"{}", b"[" * 100_000):
        assert parsed(data) is None
