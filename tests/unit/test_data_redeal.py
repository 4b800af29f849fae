"""Another number of ranks goes on with what some have read: nothing is left out, nothing is read twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.corpus import chat_rows, write_jsonl
from tests.helpers.data_modules import module
from vtblender_nemo.data.redeal import redeal

ROWS = {"a": 31, "b": 17}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, rows in ROWS.items():
        lengths = [1 + number % 7 for number in range(rows)]
        write_jsonl(
            folder / f"{name}.jsonl", [chat_rows(1, prefix=f"{name}{n}-", words=w)[0] for n, w in enumerate(lengths)]
        )
    return folder


def train_ds(folder: Path, *, robin: bool) -> dict[str, Any]:
    source = {
        name: {"type": "text_chat", "name": name, "manifest_filepath": str(folder / f"{name}.jsonl")} for name in ROWS
    }
    bounds = {"batch_size": 3, "num_buckets": 2, "buffer_size": 20, "seed": 3}
    if not robin:
        return {"input_cfg": [{**source["a"], "weight": 2}, {**source["b"], "weight": 1}], **bounds}
    samplers = {name: {"input_cfg": [source[name]]} for name in ROWS}
    return {"fusion": "randomized_round_robin", "samplers": samplers, "sampler_weights": {"a": 2, "b": 1}, **bounds}


class Crew:
    """Some ranks and what each of them reads."""

    def __init__(self, config: dict[str, Any], ranks: int, states: list[dict[str, Any]] | None = None) -> None:
        self.loaders, self.ids = [], Counter[str]()
        with pytest.MonkeyPatch.context() as patch:
            for rank in range(ranks):
                patch.setattr("vtblender_nemo.data.loader._rank", lambda rank=rank: (rank, ranks))
                data = module(config)
                if states is not None:
                    data.load_state_dict({"ranks": states})
                self.loaders.append(data.train_dataloader())

    def read(self, batches: int) -> list[dict[str, Any]]:
        """Every rank reads so many micro-batches; the states after them."""
        for loader in self.loaders:
            for _, batch in zip(range(batches), loader, strict=False):
                self.ids.update(batch.ids)
        return [loader.state_dict_after_last_batch() for loader in self.loaders]


def unread(states: list[dict[str, Any]], passes: int) -> Counter[str]:
    """How often each row is still to be read in the first passes, by a lone rank that goes on."""
    found: Counter[str] = Counter()
    planner = redeal(states, 0, 1)["planner"]
    for name, rows in ROWS.items():
        blend = planner["planners"][name]["blend"] if "planners" in planner else planner["blend"]
        start, _ = blend["positions"][name]
        found[name] = len(blend["left"].get(name, [])) + max(0, passes * rows - start)
        assert len(set(blend["left"].get(name, []))) == len(blend["left"].get(name, []))
    return found


@given(sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4), seed=st.integers(0, 99), robin=st.booleans())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_a_pass_are_read_once_over_changing_ranks(
    corpus: Path, sizes: list[int], seed: int, robin: bool
) -> None:
    rng, config, states = random.Random(seed), train_ds(corpus, robin=robin), None
    read: Counter[str] = Counter()
    for ranks in sizes:
        crew = Crew(config, ranks, states)
        states = crew.read(rng.randint(0, 3))
        read += crew.ids
    passes = 1 + max(read.values(), default=0)
    left = unread(states or [], passes)
    for name, rows in ROWS.items():
        of_source = sum(count for id, count in read.items() if id.startswith(name))
        assert of_source + left[name] == passes * rows
    # every row once more or once less often than another: no pass is begun twice
    last = Crew(config, 1, states)
    last.read(60)
    total = read + last.ids
    for name, rows in ROWS.items():
        counts = [total[f"{name}{number}-0"] for number in range(rows)]
        assert max(counts) - min(counts) <= 2


def test_the_same_number_of_ranks_goes_on_as_it_was(corpus: Path) -> None:
    config = train_ds(corpus, robin=False)
    first, whole = Crew(config, 2), Crew(config, 2)
    halves = Crew(config, 2, first.read(5))
    whole.read(9)
    halves.read(4)
    assert whole.ids == first.ids + halves.ids
