"""Text tasks through the real harness: own task files, and the stock ones on local rows of the same columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.utils.rnn import pad_sequence

from tests.helpers import models
from vtblender_nemo.common.errors import ConfigError, DataError, MissingDependencyError, ModelFileError
from vtblender_nemo.evaluation.scores import Measure
from vtblender_nemo.evaluation.text.config import read_text_tasks
from vtblender_nemo.evaluation.text.evaluate import base_llm, evaluate_text
from vtblender_nemo.evaluation.text.language_model import HarnessLM
from vtblender_nemo.evaluation.text.tiny_choices import near_misses

CONF = Path(__file__).parents[2] / "conf" / "evaluation" / "text"


def settings(name: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """One task of `conf/evaluation/text`, changed."""
    for path in sorted(CONF.glob("*.yaml")):
        tasks: Any = OmegaConf.to_container(OmegaConf.load(path))
        if name in tasks:
            return {name: {**tasks[name], **changes}}
    raise KeyError(name)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def skill(number: int, kind: str, asked: str, right: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}]
    return {"id": f"t{number}", "task": "text", "messages": messages, "reference": right, "custom": {"kind": kind}}


SKILLS = [
    skill(0, "repeat", "say one two", "one two"),
    skill(1, "repeat", "say three four", "three four"),
    skill(2, "upper", "shout five six", "FIVE SIX"),
    skill(3, "upper", "shout seven one", "SEVEN ONE"),
]


class Answers:
    """What is said in place of the LLM, by a function of the prompt and of whose turn it is; counts what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, say: Callable[[str, bool], str]) -> None:
        self.prompts: list[str] = []

        def generate(lm: HarnessLM, context: torch.Tensor, max_length: int, stop: list[str], **_: Any) -> torch.Tensor:
            texts = lm.tokenizer.batch_decode(context[:, :], skip_special_tokens=False)
            self.prompts += texts
            said = [say(text, lm._settings["variant"] == "base") for text in texts]
            ids = [torch.tensor(lm.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said]
            return torch.cat([context, pad_sequence(ids, batch_first=True, padding_value=0)], dim=1)

        monkeypatch.setattr(HarnessLM, "_model_generate", generate)


def only(found: Sequence[Measure], measure: str, variant: str = "", group: str = "") -> Measure:
    (one,) = (m for m in found if (m.measure, m.variant, m.group) == (measure, variant, group))
    return one


@pytest.fixture(scope="module")
def long_model(tmp_path_factory, canary) -> Any:
    """With room for worked examples, a byte a token."""
    from vtblender_nemo import VTBlenderModel

    folder = models.llm_folder(tmp_path_factory.mktemp("long"), max_position_embeddings=16384)
    return VTBlenderModel(models.model_config(folder, canary)).eval()


# Own tasks --------------------------------------------------------------------------------------------------------------


def test_own_task_is_scored_word_for_word_for_checkpoint_and_base(vtblender, tmp_path, monkeypatch) -> None:
    rights = {row["messages"][0]["content"]: row["reference"] for row in SKILLS}

    def say(prompt: str, is_base: bool) -> str:
        asked = next(asked for asked in rights if asked in prompt)
        wrong = ("one",) if not is_base else ("shout", "one")
        return "no" if asked.startswith(wrong) or asked == "say one two" else f" {rights[asked]} \n"

    answers = Answers(monkeypatch, say)
    task = settings("text", data=write(tmp_path / "text.jsonl", SKILLS))
    found = evaluate_text(vtblender, task, tmp_path, model_id="a")
    assert found[0].measure == "exact_match_percent"
    assert (found[0].variant, found[0].group, found[0].kind, found[0].better) == ("", "", "text", "higher")
    assert {(m.variant, m.group): m.value for m in found} == {
        ("", ""): 75.0,
        ("base", ""): 25.0,
        ("minus_base", ""): 50.0,
        ("", "kind=repeat"): 50.0,
        ("base", "kind=repeat"): 50.0,
        ("minus_base", "kind=repeat"): 0.0,
        ("", "kind=upper"): 100.0,
        ("base", "kind=upper"): 0.0,
        ("minus_base", "kind=upper"): 100.0,
    }
    same = only(found, "exact_match_percent", "minus_base", "kind=repeat")
    assert (same.low, same.high) == (0.0, 0.0)  # the same items on both sides of every resample
    assert only(found, "exact_match_percent", "minus_base").low == 0.0
    assert answers.prompts[0].endswith("<start_of_turn>model\n")
    rows, base = (read(tmp_path / "predictions" / name) for name in ("text.jsonl", "text.base.jsonl"))
    assert [row["id"] for row in rows] == ["t0", "t1", "t2", "t3"]
    assert rows[3]["reference"] == "SEVEN ONE"
    assert rows[3]["custom"]["scores"] == {"exact_match_percent": 100.0}
    assert rows[3]["custom"]["extracted"] == {"stripped": "SEVEN ONE"}
    assert base[3]["custom"]["scores"] == {"exact_match_percent": 0.0}


def test_choice_task_takes_the_likelier_answer(vtblender, tmp_path) -> None:
    """Log-likelihoods of the real, random LLM; the right answer is the likeliest of the choices or is not."""
    task = settings("text_choice", data=write(tmp_path / "text.jsonl", SKILLS), batch_size=3)
    found = evaluate_text(vtblender, task, tmp_path, model_id="a")
    rows = read(tmp_path / "predictions" / "text_choice.jsonl")
    for row in rows:
        likeliest = max(row["custom"]["log_likelihoods"].items(), key=lambda choice: choice[1])[0]
        assert row["prediction"] == likeliest
        assert row["reference"] in row["custom"]["log_likelihoods"]
        assert row["custom"]["scores"]["accuracy_percent"] == 100.0 * (likeliest == row["reference"])
    share = sum(row["prediction"] == row["reference"] for row in rows) / len(rows)
    assert only(found, "accuracy_percent").value == 100 * share
    assert only(found, "accuracy_percent", "minus_base").value == 0  # LoRA's B is zero


def test_a_second_run_computes_nothing_anew(vtblender, tmp_path, monkeypatch) -> None:
    tasks = {
        **settings("text", data=write(tmp_path / "text.jsonl", SKILLS), max_gen_toks=5),
        **settings("text_choice", data=tmp_path / "text.jsonl"),
    }
    first = evaluate_text(vtblender, tasks, tmp_path, model_id="a")
    files = {path.name: path.read_bytes() for path in (tmp_path / "predictions").iterdir()}
    with monkeypatch.context() as patched:
        for name in ("_model_generate", "_model_call"):
            patched.setattr(HarnessLM, name, lambda *_, **__: pytest.fail("computed again"))
        assert evaluate_text(vtblender, tasks, tmp_path, model_id="a") == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "predictions").iterdir()} == files
    answers = Answers(monkeypatch, lambda *_: "no")
    evaluate_text(vtblender, settings("text", data=tmp_path / "text.jsonl"), tmp_path, model_id="b")
    assert len(answers.prompts) == 2 * len(SKILLS)  # other weights


def test_a_run_that_is_stopped_goes_on_where_it_stopped(vtblender, tmp_path, monkeypatch) -> None:
    def say(prompt: str, is_base: bool) -> str:
        if "shout five six" in prompt and not stopped:
            stopped.append(prompt)
            raise KeyboardInterrupt
        return "no"

    stopped: list[str] = []
    answers = Answers(monkeypatch, say)
    task = settings("text", data=write(tmp_path / "text.jsonl", SKILLS), batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_text(vtblender, task, tmp_path, model_id="a")
    before = len(answers.prompts)
    assert before > 1  # some were answered before the stop
    evaluate_text(vtblender, task, tmp_path, model_id="a")
    assert len(answers.prompts) == before + (1 + len(SKILLS) - before) + len(SKILLS)


def test_a_limit_takes_items_from_all_over_the_set(vtblender, tmp_path, monkeypatch) -> None:
    answers = Answers(monkeypatch, lambda prompt, _: "one two" if "one two" in prompt else "no")
    task = settings("text", data=write(tmp_path / "text.jsonl", SKILLS), limit=2, base=False)
    found = evaluate_text(vtblender, task, tmp_path, model_id="a")
    assert [row["id"] for row in read(tmp_path / "predictions" / "text.jsonl")] == ["t0", "t2"]
    assert [(m.value, m.group) for m in found] == [(50.0, ""), (100.0, "kind=repeat"), (0.0, "kind=upper")]
    assert "|limit:2" in found[0].signature
    assert len(answers.prompts) == 2


def test_near_misses_differ_in_one_word() -> None:
    others = ["one three", "one two", "four two", "four five", "six"]
    assert near_misses("one two", others, 0) == ["one three", "four two", "six two"]
    assert near_misses("one two", others, 1) == ["one three", "four two", "one five"]
    assert near_misses("one two", ["one two"], 0) == []


# Stock tasks, by their names, on local rows ---------------------------------------------------------------------------


def test_gsm8k_with_its_five_examples_and_both_filters(long_model, tmp_path, monkeypatch) -> None:
    train = [{"question": f"How many are {n} and {n}?", "answer": f"Twice {n}.\n#### {2 * n}"} for n in range(1, 8)]
    test = [{"question": f"How many apples make {n}?", "answer": f"So many.\n#### {n}"} for n in (1000, 12, 7)]
    write(tmp_path / "data/main/train.jsonl", train)
    write(tmp_path / "data/main/test.jsonl", test)
    said = {"1000": "Let us see: 1,000. #### 1,000", "12": "It is $12.", "7": "#### 8"}
    answers = Answers(monkeypatch, lambda prompt, _: next(a for n, a in said.items() if f"make {n}?" in prompt))
    found = evaluate_text(long_model, settings("gsm8k", data=tmp_path / "data"), tmp_path, model_id="a")
    assert only(found, "exact_match_percent").value == pytest.approx(200 / 3)
    assert only(found, "strict_exact_match_percent").value == pytest.approx(100 / 3)
    assert "|tasks:gsm8k@3.0|metric:exact_match|filter:flexible-extract|" in found[0].signature
    assert {prompt.count("<start_of_turn>user\nQuestion: How many") for prompt in answers.prompts} == {6}
    checkpoint, base = answers.prompts[:3], answers.prompts[3:]
    assert sorted(checkpoint) == sorted(base)  # the same worked examples
    rows = read(tmp_path / "predictions" / "gsm8k.jsonl")
    assert rows[1]["custom"]["extracted"] == {"strict-match": "[invalid]", "flexible-extract": "$12."}


def test_mmlu_on_two_subjects(vtblender, tmp_path, monkeypatch) -> None:
    """By the likeliest letter, as a whole and by subject; the files are Parquet."""
    for subject, rights in {"anatomy": [0, 1], "virology": [0, 0, 3]}.items():
        for split, answers in (("dev", [2]), ("test", rights)):
            row = {"question": "Which?", "subject": subject, "choices": ["w", "x", "y", "z"]}
            path = tmp_path / f"data/{subject}/{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist([{**row, "answer": answer} for answer in answers])
            pyarrow.parquet.write_table(table, path)

    def prefer_a(lm: HarnessLM, ids: torch.Tensor, **_: Any) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, len(lm.tokenizer))
        logits[..., lm.tokenizer.convert_tokens_to_ids("A")] = 5.0
        return logits

    monkeypatch.setattr(HarnessLM, "_model_call", prefer_a)
    cfg = settings("mmlu", data=tmp_path / "data", tasks=["mmlu_anatomy", "mmlu_virology"], num_fewshot=1)
    found = evaluate_text(vtblender, cfg, tmp_path, model_id="a")
    assert only(found, "accuracy_percent").value == pytest.approx(60.0)
    assert only(found, "accuracy_percent", group="task=mmlu_anatomy").value == 50.0
    assert only(found, "accuracy_percent", group="task=mmlu_virology").value == pytest.approx(200 / 3)
    row = read(tmp_path / "predictions" / "mmlu.jsonl")[1]
    assert (row["id"], row["prediction"], row["reference"]) == ("mmlu_anatomy:1", "A", "B")
    assert row["asked"].count("Which?\nA. w\nB. x\nC. y\nD. z\nAnswer:") == 2


def test_bbh_as_a_group_wants_data_of_every_task(long_model, tmp_path, monkeypatch) -> None:
    write(tmp_path / "data/navigate/test.jsonl", [{"input": "Turn left. Back?", "target": "No"}] * 2)
    with pytest.raises(DataError, match=r"bbh_cot_fewshot_boolean_expressions.*boolean_expressions"):
        evaluate_text(long_model, settings("bbh", data=tmp_path / "data"), tmp_path, model_id="a")
    Answers(monkeypatch, lambda _, is_base: "So the answer is Yes." if is_base else "So the answer is No.\n\nthe rest")
    cfg = settings("bbh", data=tmp_path / "data", tasks=["bbh_cot_fewshot_navigate"])
    found = evaluate_text(long_model, cfg, tmp_path, model_id="a")
    assert [m.value for m in found] == [100.0, 0.0, 100.0]
    (row, _) = read(tmp_path / "predictions" / "bbh.jsonl")
    assert row["prediction"] == "So the answer is No."  # cut where the task says
    assert row["asked"].count("Let's think step by step.") == 4


def test_ifeval_counts_prompts_and_instructions(long_model, tmp_path, monkeypatch) -> None:
    rows = [
        {
            "key": 1,
            "prompt": "Say hello without commas, in lower case.",
            "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
            "kwargs": [{}, {}],
        },
        {
            "key": 2,
            "prompt": "Say apple.",
            "instruction_id_list": ["keywords:existence"],
            "kwargs": [{"keywords": ["apple"]}],
        },
    ]
    polite = "hello, my good friend, it is so nice to see you here again, and how have you been all this time?"
    said = {"hello": polite, "apple": "**apple**"}
    Answers(monkeypatch, lambda prompt, _: next(a for word, a in said.items() if word in prompt))
    cfg = settings("ifeval", data=write(tmp_path / "ifeval.jsonl", rows))
    found = evaluate_text(long_model, cfg, tmp_path, model_id="a")
    assert only(found, "prompt_strict_accuracy_percent").value == 50.0
    assert only(found, "instruction_strict_accuracy_percent").value == pytest.approx(200 / 3)
    assert only(found, "instruction_strict_accuracy_percent", "minus_base").value == 0.0


def test_ifeval_finds_equal_answers_equally_right(long_model, tmp_path, monkeypatch) -> None:
    """Its detector of languages draws random numbers, and this answer is English to it only now and then."""
    row = {"prompt": "Lower case!", "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]}
    rows = write(tmp_path / "ifeval.jsonl", [{"key": number, **row} for number in range(12)])
    Answers(monkeypatch, lambda *_: "hello, my good friend, how are you today")
    found = evaluate_text(long_model, settings("ifeval", data=rows), tmp_path, model_id="a")
    difference = only(found, "prompt_strict_accuracy_percent", "minus_base")
    assert (difference.low, difference.value, difference.high) == (0.0, 0.0, 0.0)


def test_data_that_scoring_lacks_are_named_and_answers_kept(long_model, tmp_path, monkeypatch) -> None:
    def absent(name: str) -> Any:
        raise LookupError(f"Resource punkt_tab not found: nltk.download ({name})")

    monkeypatch.setattr("nltk.data.load", absent)
    kwargs = {"num_sentences": 2, "relation": "at least"}
    row = {"prompt": "Two!", "instruction_id_list": ["length_constraints:number_sentences"], "kwargs": [kwargs]}
    rows = write(tmp_path / "ifeval.jsonl", [{"key": 1, **row}])
    Answers(monkeypatch, lambda *_: "One. Two.")
    with pytest.raises(MissingDependencyError, match=r"ifeval are kept.*nltk.downloader punkt_tab"):
        evaluate_text(long_model, settings("ifeval", data=rows), tmp_path, model_id="a")
    assert len(read(tmp_path / "predictions" / ".ifeval.harness.journal")) == 1


@pytest.mark.parametrize("name", ["gsm8k", "ifeval", "bbh", "mmlu", "text", "text_choice"])
def test_configurations_that_are_shipped_can_be_read(name) -> None:
    (task,) = read_text_tasks(settings(name, data=None))
    assert task.measures[0].name.endswith("_percent")


# Base LLMs ------------------------------------------------------------------------------------------------------------


def test_base_of_a_model_with_lora_is_itself_without(vtblender) -> None:
    with base_llm(vtblender) as llm:
        assert llm is vtblender.llm


def test_base_of_a_fully_trained_model_is_read_again(gemma, canary) -> None:
    from vtblender_nemo import VTBlenderModel

    model = VTBlenderModel(models.model_config(gemma, canary, train_llm=True, lora=None)).eval()
    before = model.llm.fingerprint()
    with torch.no_grad():
        model.llm.causal_lm.get_input_embeddings().weight.add_(1.0)
    with base_llm(model) as llm:
        assert llm.fingerprint() == before
    model.cfg.pretrained_llm = "/nowhere"
    with pytest.raises(ModelFileError, match=r"/nowhere.*model.pretrained_llm"), base_llm(model):
        pass


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["gsm9k"]}, r"gsm9k.*as gsm8k.*text.tasks"),
        ({"tasks": []}, r"text.tasks"),
        ({"measures": []}, r"text.measures"),
        ({"measures": [{"name": "a"}]}, r"text.measures"),
        ({"shots": 3}, r"shots.*num_fewshot"),
        ({"kind": "asr"}, r"asr.*text"),
        ({"limit": 0}, r"text.limit"),
        ({"group_by": "custom.colour"}, r"custom.colour.*group_by"),
        ({"measures": [{"name": "a", "metric": "exact_match", "filter": "x"}]}, r"filter.*'x'.*one of stripped"),
        ({"measures": [{"name": "a", "metric": "f1", "filter": "stripped"}]}, r"f1.*one of exact_match"),
    ],
)
def test_wrong_settings_are_named(vtblender, tmp_path, monkeypatch, changes, message) -> None:
    Answers(monkeypatch, lambda *_: "no")
    task = settings("text", **{"data": write(tmp_path / "text.jsonl", SKILLS), **changes})
    with pytest.raises(ConfigError, match=message):
        evaluate_text(vtblender, task, tmp_path, model_id="a")


def test_wrong_data_are_named_by_file_and_row(vtblender, tmp_path) -> None:
    def run(data: Path) -> None:
        evaluate_text(vtblender, settings("text", data=data), tmp_path, model_id="a")

    with pytest.raises(DataError, match=r"absent.jsonl.*text.data"):
        run(tmp_path / "absent.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: .*split test of tiny_text.*test.jsonl.*text.data"):
        run(tmp_path / "folder")
    with pytest.raises(DataError, match=r"/nowhere.*text.include_path"):
        read_text_tasks(settings("text", data=None, include_path="/nowhere"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=r"empty.jsonl.*without rows"):
        run(tmp_path / "empty.jsonl")
    lacking = [SKILLS[0], {k: v for k, v in SKILLS[1].items() if k != "reference"}]
    with pytest.raises(DataError, match=r"lacking.jsonl:2: missing field.*reference"):
        run(write(tmp_path / "lacking.jsonl", lacking))
    (tmp_path / "torn.jsonl").write_text(json.dumps(SKILLS[0]) + '\n{"id": \n')
    with pytest.raises(DataError, match=r"torn.jsonl:2"):
        run(tmp_path / "torn.jsonl")
    table = pyarrow.Table.from_pylist([{"id": "a", "messages": "b", "custom": "c"}])
    pyarrow.parquet.write_table(table, tmp_path / "lacking.parquet")
    with pytest.raises(DataError, match=r"lacking.parquet: missing column.*reference"):
        run(tmp_path / "lacking.parquet")


def test_data_that_cannot_be_downloaded_tell_what_to_set(vtblender, tmp_path) -> None:
    with pytest.raises(DataError, match=r"gsm8k.*gsm8k.data"):
        evaluate_text(vtblender, settings("gsm8k"), tmp_path, model_id="a")
