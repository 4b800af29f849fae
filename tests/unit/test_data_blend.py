"""The blend: shares, filters, skips, and micro-batches within their bounds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.corpus import FRAME_SECS, RATE, chat_rows, make_encoder, speech_rows, write_jsonl
from vtblender_nemo.common.errors import ConfigError, DataError
from vtblender_nemo.data.blend import Blend, Limits
from vtblender_nemo.data.buckets import BucketPlanner, estimate_bins
from vtblender_nemo.data.loader import BlendDataModule
from vtblender_nemo.data.weighted import read_sources

ENCODER = make_encoder()


def chats(folder: Path, name: str, count: int = 100, words: int = 1, **entry):
    path = write_jsonl(folder / f"{name}.jsonl", chat_rows(count, prefix=f"{name}-", words=words))
    return {"type": "text_chat", "name": name, "manifest_filepath": path, **entry}


def make_blend(input_cfg, limits: Limits | None = None, temperature: float = 1.0, **kwargs) -> Blend:
    sources = read_sources(input_cfg, sampling_rate=RATE, temperature=temperature)
    return Blend(sources, ENCODER, limits or Limits(), **kwargs)


def draw(blend: Blend, count: int) -> list[str]:
    return [blend.draw().conversation.id for _ in range(count)]


def probabilities(input_cfg, temperature: float = 1.0) -> dict[str, float]:
    sources = read_sources(input_cfg, sampling_rate=RATE, temperature=temperature)
    return {entry.source.name: round(entry.probability, 6) for entry in sources}


def test_nested_weights_multiply_and_count_rows(tmp_path):
    def entry(name, weight):
        return chats(tmp_path, name, weight=weight)

    group = {"type": "group", "weight": 3, "input_cfg": [entry("b", 2), entry("c", 1), entry("d", 1)]}
    blend = make_blend([entry("a", 1), group])
    wanted = {"a": 0.25, "b": 0.375, "c": 0.1875, "d": 0.1875}
    assert probabilities([entry("a", 1), group]) == wanted
    seen = Counter(blend.draw().conversation.source for _ in range(10_000))
    for name, share in wanted.items():
        assert seen[name] / 10_000 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("temperature", "wanted"), [(1.0, (0.2, 0.8)), (0.5, (1 / 3, 2 / 3)), (0.0, (0.5, 0.5)), (2.0, (1 / 17, 16 / 17))]
)
def test_temperature_is_an_exponent(tmp_path, temperature, wanted):
    entries = [chats(tmp_path, "a", weight=1), chats(tmp_path, "b", weight=4)]
    assert tuple(probabilities(entries, temperature).values()) == pytest.approx(wanted, abs=1e-6)


def test_temperature_of_a_group_is_its_own(tmp_path):
    inner = [chats(tmp_path, "a", weight=1), chats(tmp_path, "b", weight=4)]
    group = {"type": "group", "temperature": 0, "input_cfg": inner}
    assert probabilities([group]) == {"a": 0.5, "b": 0.5}


def test_without_weights_every_row_counts_alike(tmp_path):
    assert probabilities([chats(tmp_path, "a", 30), chats(tmp_path, "b", 10)]) == {"a": 0.75, "b": 0.25}


@pytest.mark.parametrize("weight", [None, 0, -1, "1", float("nan")])
def test_all_siblings_have_weights_or_none(tmp_path, weight):
    with pytest.raises(ConfigError, match=r"input_cfg\[1\].weight"):
        make_blend([chats(tmp_path, "a", weight=1.0), chats(tmp_path, "b", weight=weight)])


def test_names_are_unique(tmp_path):
    with pytest.raises(ConfigError, match="share a name.*'a'"):
        make_blend([chats(tmp_path, "a"), chats(tmp_path, "a")])


def test_tags_of_groups_reach_rows(tmp_path):
    group = {"type": "group", "tags": {"task": "outer", "k": 1}, "input_cfg": [chats(tmp_path, "a", tags={"k": 2})]}
    assert make_blend([group]).draw().conversation.custom == {"task": "outer", "k": 2}


@given(ranks=st.integers(1, 4), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_over_ranks_a_pass_reads_each_row_once(tmp_path, ranks, seed):
    rows = 24
    entries = [chats(tmp_path, "a", rows), chats(tmp_path, "b", rows)]
    blends = [make_blend(entries, seed=seed, rank=rank, world_size=ranks) for rank in range(ranks)]
    seen: dict[tuple[str, int], list[str]] = {}
    for blend in blends:
        for _ in range(200):
            example = blend.draw()
            key = (example.conversation.source, example.position // rows)
            seen.setdefault(key, []).append(example.conversation.id)
    for ids in seen.values():
        assert len(ids) == len(set(ids))
    assert sorted(seen["a", 0]) == sorted(f"a-{n}" for n in range(rows))


def test_ranks_draw_their_sources_apart(tmp_path):
    entries = [chats(tmp_path, "a"), chats(tmp_path, "b")]
    picks = [
        [blend.draw().conversation.source for _ in range(50)]
        for blend in (make_blend(entries, rank=rank, world_size=2) for rank in range(2))
    ]
    assert picks[0] != picks[1]


def test_a_finished_source_goes_on_and_keeps_its_share(tmp_path):
    blend = make_blend([chats(tmp_path, "a", 3, weight=1), chats(tmp_path, "b", 500, weight=1)])
    seen = Counter(blend.draw().conversation.source for _ in range(4000))
    assert seen["a"] / 4000 == pytest.approx(0.5, abs=0.02)


def test_lengths_are_text_tokens_and_frames(tmp_path):
    rows = speech_rows(tmp_path, [0.5])
    path = write_jsonl(tmp_path / "m.jsonl", rows)
    example = make_blend([{"type": "nemo", "manifest_filepath": path, "prompts": ["Hi"]}]).draw()
    text = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nspeech number 0<end_of_turn>\n"
    tokens = len(ENCODER.chat_format.tokenizer.encode(text, add_special_tokens=False))
    assert example.length == tokens + 7  # 0.5 s in frames of 0.08 s
    assert len(example.prompt.ids) == tokens + 1


def test_frames_that_the_model_adds_to_every_audio_are_counted(tmp_path):
    rows = speech_rows(tmp_path, [0.5, 0.3])
    parts = [{"type": "audio", "audio": row["audio_filepath"], "duration": row["duration"]} for row in rows]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "ok"}]
    path = write_jsonl(tmp_path / "c.jsonl", [{"id": "two", "messages": messages}])
    (entry,) = read_sources([{"type": "text_chat", "manifest_filepath": path}], sampling_rate=RATE)
    conversation = entry.source.conversation(0, entry.source.rng(0, 0))
    prompt, length = ENCODER.encode(conversation)
    assert length == len(prompt.ids) - 2 + 7 + 4  # 0.5 s and 0.3 s in frames of 0.08 s
    assert replace(ENCODER, extra_frames=1).encode(conversation)[1] == length + 2


@pytest.mark.parametrize(("extra", "kept"), [(0, ["s0"]), (1, [])])
def test_the_data_module_counts_them_against_its_limits(tmp_path, extra, kept):
    path = write_jsonl(tmp_path / "m.jsonl", speech_rows(tmp_path, [0.5]))
    inputs = [{"type": "nemo", "manifest_filepath": path, "prompts": ["Hi"]}]
    length = make_blend(inputs).draw().length
    cfg = {"validation_ds": {"sets": {"a": {"input_cfg": inputs}}, "max_tokens": length}}
    data = BlendDataModule(cfg, ENCODER.chat_format, FRAME_SECS, RATE, extra_frames=extra)
    assert [conversation.id for batch in data.val_dataloader()[0] for conversation in batch] == kept


def test_filters_drop_count_and_name_their_knob(tmp_path):
    rows = speech_rows(tmp_path, [0.05, 0.5, 1.0, 3.0])
    rows.append({**rows[1], "id": "long", "text": "x" * 300})
    rows.append({**rows[1], "id": "empty", "text": ""})
    path = write_jsonl(tmp_path / "m.jsonl", [*rows, "no json", ""])
    entry = {"type": "nemo", "manifest_filepath": path, "prompts": ["Hi"]}
    blend = make_blend([entry], Limits(min_duration=0.1, max_duration=2.0, max_tokens=200), shuffle=False)
    assert draw(blend, 4) == ["s1", "s2", "s1", "s2"]
    skips = blend.take_skips()
    first = {skip.line: (skip.knob, skip.reason) for skip in skips if skip.first_pass}
    assert {line: knob for line, (knob, _) in first.items()} == {
        1: "min_duration",
        4: "max_duration",
        5: "max_tokens",
        6: "on_bad_row",
        7: "on_bad_row",
        8: "on_bad_row",
    }
    assert first[4][1] == "audio of 3.000 s is longer than 2.0 s"
    assert "empty text" in first[6][1]
    assert all(skip.path == path and skip.source == "nemo" for skip in skips)
    assert not skips[-1].first_pass, "rows are skipped again in the second pass, but not listed again"
    assert blend.take_skips() == []


@pytest.mark.parametrize(
    ("limits", "knob"),
    [
        (Limits(max_duration=0.1), "max_duration"),
        (Limits(min_duration=9), "min_duration"),
        (Limits(max_tokens=5), "max_tokens"),
        (Limits(batch_tokens=5), "batch_tokens"),
    ],
)
def test_filters_that_reject_everything_are_an_error(tmp_path, limits, knob):
    path = write_jsonl(tmp_path / "m.jsonl", speech_rows(tmp_path, [0.5] * 6))
    blend = make_blend([{"type": "nemo", "manifest_filepath": path, "prompts": ["Hi"]}], limits)
    with pytest.raises(
        ConfigError,
        match=rf"nothing but rejected rows.*1000 rows in vain \(rejected by {knob}: 1000\).*data.train_ds.{knob}",
    ):
        blend.draw()


def test_bad_rows_stop_the_run_if_asked(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", ["no json"])
    blend = make_blend([{"type": "text_chat", "manifest_filepath": path}], stop_at_bad_row=True)
    with pytest.raises(DataError, match=r"c.jsonl:1: line is not JSON"):
        blend.draw()


def test_a_conversation_that_ends_with_the_user_is_skipped(tmp_path):
    good = {"id": "good", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {"id": "bad", "messages": [{"role": "user", "content": "a"}]}
    tag = {"id": "tag", "messages": [{"role": "user", "content": "<unused0>"}, {"role": "assistant", "content": "b"}]}
    path = write_jsonl(tmp_path / "c.jsonl", [good, bad, tag])
    blend = make_blend([{"type": "text_chat", "manifest_filepath": path}])
    assert set(draw(blend, 6)) == {"good"}
    reasons = {skip.line: skip.reason for skip in blend.take_skips()}
    assert "no final answer" in reasons[2]
    assert "locator tag" in reasons[3]


def test_the_blend_as_a_cutset(tmp_path):
    from lhotse import CutSet

    blend = make_blend([chats(tmp_path, "a"), chats(tmp_path, "b")])
    stream = blend.cutset()
    assert isinstance(stream, CutSet)
    ids = [c.id for c, _ in zip(stream, range(30), strict=False)]
    assert ids == draw(blend, 30)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    budget=st.integers(120, 600),
    batch_size=st.one_of(st.none(), st.integers(1, 5)),
    quadratic=st.one_of(st.none(), st.integers(50, 400)),
    bins=st.lists(st.integers(40, 100), unique=True, max_size=4).map(sorted),
    sizes=st.one_of(st.none(), st.lists(st.integers(1, 5), min_size=5, max_size=5)),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_micro_batch_exceeds_its_budget(tmp_path, lengths, budget, batch_size, quadratic, bins, sizes):
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": "u" * size}, {"role": "assistant", "content": "a"}]}
        for n, size in enumerate(lengths)
    ]
    limits = Limits(batch_tokens=budget, quadratic_length=quadratic)
    blend = make_blend([{"type": "text_chat", "manifest_filepath": write_jsonl(tmp_path / "c.jsonl", rows)}], limits)
    sizes = sizes and sizes[: len(bins) + 1]
    planner = BucketPlanner(blend, batch_size=batch_size, bins=bins, bucket_sizes=sizes)
    if all(limits.cost(size + 19) > budget for size in lengths):  # 19 tokens stand around and after them
        with pytest.raises(ConfigError, match="batch_tokens"):
            planner.next_batch()
        return
    batches = [planner.next_batch() for _ in range(20)]
    for batch in batches:
        longest = max(row.length for row in batch)
        cost = longest + longest**2 / quadratic if quadratic else longest
        assert cost * len(batch) <= budget
        assert batch_size is None or len(batch) <= batch_size
        edges = [0, *bins, 10**9]
        buckets = {max(i for i, edge in enumerate(edges) if edge <= row.length) for row in batch}
        assert len(buckets) == 1
        assert sizes is None or len(batch) <= sizes[buckets.pop()]


def test_buckets_fill_up_to_their_own_sizes(tmp_path):
    blend = make_blend([chats(tmp_path, "a", 300, words=30)])
    planner = BucketPlanner(blend, bins=[60, 120], bucket_sizes=[7, 4, 2])
    batches = [planner.next_batch() for _ in range(40)]
    found = {(sum(edge <= batch[0].length for edge in (60, 120)), len(batch)) for batch in batches}
    assert found == {(0, 7), (1, 4), (2, 2)}


def test_a_state_with_other_bins_than_sizes_were_found_for_is_refused(tmp_path):
    entries = [chats(tmp_path, "a", 300, words=30)]
    saved = BucketPlanner(make_blend(entries), bins=[60, 120], batch_size=3)
    saved.next_batch()
    planner = BucketPlanner(make_blend(entries), bins=[60, 130], bucket_sizes=[7, 4, 2])
    with pytest.raises(ConfigError, match=r"other bins.*\[60, 130\].*\[60, 120\].*bucket_bins"):
        planner.load_state_dict(saved.state_dict())
    same = BucketPlanner(make_blend(entries), bins=[60, 120], bucket_sizes=[7, 4, 2])
    same.load_state_dict(saved.state_dict())
    assert len(same.next_batch()) in (7, 4, 2)


def test_every_drawn_row_is_given_out_once(tmp_path):
    blend = make_blend([chats(tmp_path, "a", 200, words=20)], Limits(batch_tokens=400))
    planner = BucketPlanner(blend, num_buckets=4, buffer_size=100)
    positions = [row.position for _ in range(60) for row in planner.next_batch()]
    waiting = [position for batch in planner.state_dict()["open"] for _, position in batch]
    assert sorted(positions + waiting) == list(range(len(positions) + len(waiting)))


def test_bins_hold_alike_many_positions_and_are_the_same_on_all_ranks(tmp_path):
    entries = [chats(tmp_path, "a", 300, words=30)]
    bins = [estimate_bins(make_blend(entries, rank=rank, world_size=3), 5, 300) for rank in range(3)]
    assert bins[0] == bins[1] == bins[2]
    assert len(bins[0]) == 4
    blend = make_blend(entries)
    lengths = [blend.draw().length for _ in range(300)]
    held = Counter(sum(edge <= length for edge in bins[0]) for length in lengths for _ in range(length))
    assert max(held.values()) / min(held.values()) < 1.5


def test_buckets_pad_less_than_one_queue(tmp_path):
    def padding(num_buckets: int) -> float:
        blend = make_blend([chats(tmp_path, "a", 500, words=40)], Limits(batch_tokens=4000))
        planner = BucketPlanner(blend, num_buckets=num_buckets, buffer_size=500)
        batches = [planner.next_batch() for _ in range(100)]
        padded = sum(max(row.length for row in batch) * len(batch) for batch in batches)
        return 1 - sum(row.length for batch in batches for row in batch) / padded

    assert padding(8) < 0.15
    assert padding(1) > 0.3


def test_bins_are_kept_with_the_state(tmp_path):
    def make(buffer_size: int) -> BucketPlanner:
        blend = make_blend([chats(tmp_path, "a", 300, words=30)], Limits(batch_tokens=4000))
        return BucketPlanner(blend, num_buckets=4, buffer_size=buffer_size)

    planner, other = make(200), make(10)
    planner.next_batch()
    assert other.bins != planner.bins
    other.load_state_dict(planner.state_dict())
    assert other.bins == planner.bins


def test_bins_must_ascend(tmp_path):
    with pytest.raises(ConfigError, match="not ascending.*bucket_bins"):
        BucketPlanner(make_blend([chats(tmp_path, "a")]), bins=[5, 3])


def test_a_state_of_another_blend_is_refused(tmp_path):
    state = make_blend([chats(tmp_path, "a", 10)]).state_dict()
    make_blend([chats(tmp_path, "a", 10)]).load_state_dict(state)
    with pytest.raises(ConfigError, match="another seed"):
        make_blend([chats(tmp_path, "a", 10)], seed=1).load_state_dict(state)
    with pytest.raises(ConfigError, match="another source.*11.*'a': 10.*input_cfg"):
        make_blend([chats(tmp_path, "a", 11)]).load_state_dict(state)


def test_sources_from_a_file_start_from_its_folder(tmp_path):
    write_jsonl(tmp_path / "sub" / "c.jsonl", chat_rows(3))
    (tmp_path / "sub" / "blend.yaml").write_text(
        "input_cfg:\n- type: group\n  input_cfg: [{type: text_chat, manifest_filepath: c.jsonl}]\n"
    )
    assert probabilities(str(tmp_path / "sub" / "blend.yaml")) == {"text_chat": 1.0}
    with pytest.raises(ConfigError, match="file of sources is missing"):
        probabilities("nowhere.yaml")
    with pytest.raises(ConfigError, match="no sources"):
        probabilities([])
