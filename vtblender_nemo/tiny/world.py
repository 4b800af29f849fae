"""Makes the tiny world, or reuses what was made before.

The world is a folder:

    content/    speech/ (WAV, 16 kHz), sources/ and prompts.yaml (training), tests/, validation/, utterances.jsonl
    tokenizer/  of the language model
    llm/        the language model, a Hugging Face folder
    noise/      noises for augmentation, where it is asked for
    encoder.nemo   a Canary whose encoder is trained and whose decoder is not
    imitation/  answers of the language model about transcripts, where they are asked for; `input_cfg.yaml` in it is a source
    report.json

Every part is made under another name and renamed when it is whole; beside it lies a note of the settings that it was
made with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtblender_nemo.tiny.config import ImitationConfig, TinyConfig, decisive
from vtblender_nemo.tiny.digits import plan_digits, write_digits
from vtblender_nemo.tiny.generalisation import SET as GENERALISATION
from vtblender_nemo.tiny.heard import NOISE_FOLDER
from vtblender_nemo.tiny.imitation import NAME as IMITATION
from vtblender_nemo.tiny.imitation import asked_by
from vtblender_nemo.tiny.jobs import CONFIG_NAME, RESULT_NAME, language_model_chats, read_jsonl
from vtblender_nemo.tiny.noise import write_noises
from vtblender_nemo.tiny.other_tests import REAL_TASK, read_real_items, said_by_engines, write_real_items
from vtblender_nemo.tiny.rows import PROMPTS, SOURCES, write_world
from vtblender_nemo.tiny.sets import SETS
from vtblender_nemo.tiny.sources import SPEECH_TASKS, plan_world
from vtblender_nemo.tiny.speakers import open_flite
from vtblender_nemo.tiny.speech import read_alignments, read_durations, write_plan
from vtblender_nemo.tiny.stages import Stage, run_side_by_side

_WORLD_VERSION = 2
"""Raised when the code makes another world from the same settings, so that older worlds are not reused."""

_SETS_VERSION = 2
"""The same for the further test sets, which no training depends on."""

_IMITATION_VERSION = 1
"""The same for what is to be imitated."""

DIGITS = "sources/digits.jsonl"
TEST_TASKS = (*SPEECH_TASKS, "text")


@dataclass(frozen=True)
class TinyWorld:
    """Where everything is.

    Attributes:
        directory: the world's folder.
        llm_dir: the language model, a Hugging Face folder.
        encoder_nemo: the encoder, a Canary `.nemo` with an untrained decoder.
        sources: training files by source: text, asr, ast_de, ast_es, speech_qa, mixed; mixed_questions and voices are for
            other blends than the default.
        prompts: the file of wordings of the tasks asr, ast_de, ast_es and speech_qa.
        tests: test items by task.
        validations: validation items by task.
        report: what was made: seconds of every stage, accuracy of the language model, WER of the encoder.
        imitation: the file of sources that reads what is to be imitated; None where nothing is.
    """

    directory: Path
    llm_dir: Path
    encoder_nemo: Path
    sources: dict[str, Path]
    prompts: Path
    tests: dict[str, Path]
    validations: dict[str, Path]
    report: dict[str, Any]
    imitation: Path | None = None


def prepare(config: TinyConfig, directory: Path, log: Callable[[str], None] = print) -> TinyWorld:
    """Makes the world, stage by stage; what stands already is reused, and what was stopped continues.

    Args:
        config: every knob.
        directory: the world's folder.
        log: takes lines of progress.

    Raises:
        ConfigError: the config contradicts itself, names unknown voices, or a manifest of real recordings that is missing.
        DataError: a row of that manifest that cannot be used.
        MissingDependencyError: flite shall speak and is not installed.
        StageError: a training process failed.
    """
    real_items = None if config.real_items is None else read_real_items(Path(config.real_items))
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_NAME).write_text(json.dumps(asdict(config), indent=1))
    stages = _stages(config, directory)
    report = {"content": _make_content(config, stages["content"], log)}
    if config.encoder.augment is not None:
        _make_noise(config, stages["noise"])
    content = stages["content"].path
    tests = [*TEST_TASKS, *SETS, *(f"asr_{engine}" for engine in config.voices.test_engines or ())]
    if real_items is not None:
        write_real_items(real_items, content / "tests" / f"{REAL_TASK}.jsonl")
        tests.append(REAL_TASK)
    report["tokenizer"] = _make_tokenizer(config, stages["tokenizer"])
    report |= _train(stages["llm"], stages["encoder"], directory, log)
    if config.imitation is not None:
        report[IMITATION] = _make_imitation(stages[IMITATION], log)
    (directory / "report.json").write_text(json.dumps(report, indent=1))
    sources = SOURCES if config.content.digit_strings is None else {**SOURCES, "digits": DIGITS}
    return TinyWorld(
        directory,
        stages["llm"].path,
        stages["encoder"].path,
        sources={name: content / file for name, file in sources.items()},
        prompts=content / PROMPTS,
        tests={task: content / "tests" / f"{task}.jsonl" for task in tests},
        validations={task: content / "validation" / f"{task}.jsonl" for task in (*TEST_TASKS, GENERALISATION)},
        report=report,
        imitation=None if config.imitation is None else stages[IMITATION].path / "input_cfg.yaml",
    )


def is_made(config: TinyConfig, directory: Path) -> bool:
    """Whether `prepare` has nothing to make any more: for processes that wait until another one has made the world."""
    stages = _stages(config, Path(directory).resolve())
    if config.encoder.augment is None:
        del stages["noise"]
    if config.imitation is None:
        del stages[IMITATION]
    return all(stage.made() is not None for stage in stages.values())


def _stages(config: TinyConfig, directory: Path) -> dict[str, Stage]:
    settings = decisive(asdict(config))
    base = {"version": _WORLD_VERSION, "seed": config.seed}
    trained = {**base, "content": settings["content"], "voices": settings["voices"]}
    asked = asked_by(config.imitation or ImitationConfig()).settings()
    content = {**trained, "sets": settings["sets"], "sets_version": _SETS_VERSION, "asked": asked}
    if config.alignments:
        content["alignments"] = True
    read = {key: value for key, value in settings["content"].items() if key != "digit_strings"}
    tokenizer = {**base, "content": read, "vocabulary": config.llm.vocabulary}
    llm = {**tokenizer, "llm": settings["llm"]}
    imitation = {
        **llm,
        **trained,
        "alignments": bool(config.alignments),
        "asked": asked["taught"],
        "imitation": settings.get("imitation"),
        "imitation_version": _IMITATION_VERSION,
    }
    return {
        "content": Stage(directory, "content", content),
        "tokenizer": Stage(directory, "tokenizer", tokenizer),
        "llm": Stage(directory, "llm", llm),
        IMITATION: Stage(directory, IMITATION, imitation),
        "encoder": Stage(
            directory, "encoder.nemo", {**trained, "vocabulary": config.llm.vocabulary, "encoder": settings["encoder"]}
        ),
        "noise": Stage(directory, NOISE_FOLDER, {"seed": config.seed}),
    }


def _make_content(config: TinyConfig, stage: Stage, log: Callable[[str], None]) -> dict[str, Any]:
    if (report := stage.made()) is not None:
        log(f"content: reused, {report['utterances']} utterances")
        return report
    started = time.monotonic()
    stage.begin()
    if flite := {*config.voices.heard_of_flite(), *config.voices.tested_of_flite()}:
        open_flite(tuple(sorted(flite)))  # its absence is told before anything is made
    plan = plan_world(config)
    tests = said_by_engines(plan.tests["asr"], config.voices, config.seed)
    digits = plan_digits(config.content.digit_strings or 0, plan.held_out, config.voices, config.seed)
    plan.tests |= tests
    plan.utterances += [spoken for items in tests.values() for item in items for spoken in item.spoken] + digits
    log(f"content: speaking {len(plan.utterances)} utterances")
    stage.partial.mkdir()
    write_plan(plan.utterances, stage.partial)
    workers = config.voices.processes
    module = "vtblender_nemo.tiny.speech"
    kinds = ("alignments",) if config.alignments else ()
    jobs = {f"speech {n}": (module, str(stage.partial), str(n), str(workers), *kinds) for n in range(workers)}
    run_side_by_side(jobs, stage.directory / "logs", log)
    durations = read_durations(stage.partial, workers)
    alignments = read_alignments(stage.partial, workers) if config.alignments else None
    write_world(plan, durations, stage.partial, alignments)
    if digits:
        write_digits(digits, durations, stage.partial / DIGITS, alignments)
    report = {
        "utterances": len(plan.utterances),
        "training_hours": sum(secs for name, secs in durations.items() if name.startswith("train")) / 3600,
        "test_hours": sum(secs for name, secs in durations.items() if name.startswith("test")) / 3600,
        "seconds": time.monotonic() - started,
    }
    stage.finish(report)
    log(f"content: {report['training_hours']:.1f} h of training speech in {report['seconds']:.0f} s")
    return report


def _make_noise(config: TinyConfig, stage: Stage) -> None:
    if stage.made() is None:
        stage.begin()
        write_noises(stage.partial, config.seed)
        stage.finish({})


def _make_tokenizer(config: TinyConfig, stage: Stage) -> dict[str, Any]:
    if (report := stage.made()) is not None:
        return report
    from vtblender_nemo.tiny.llm import make_tokenizer

    started = time.monotonic()
    stage.begin()
    tokenizer = make_tokenizer(language_model_chats(config), config.llm.vocabulary)
    tokenizer.save_pretrained(stage.partial)
    report = {"vocabulary": len(tokenizer), "seconds": time.monotonic() - started}
    stage.finish(report)
    return report


def _train(llm: Stage, encoder: Stage, directory: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Both trainings side by side, one thread each; either alone if the other stands already."""
    titles = {"language model": ("llm", llm), "speech encoder": ("encoder", encoder)}
    missing = {title: stage for title, (_, stage) in titles.items() if stage.made() is None}
    for title in titles.keys() - missing.keys():
        log(f"{title}: reused")
    for stage in missing.values():
        stage.begin()
    jobs = {
        title: ("vtblender_nemo.tiny.jobs", titles[title][0], str(directory), str(stage.scratch), str(stage.partial))
        for title, stage in missing.items()
    }
    secs = run_side_by_side(jobs, directory / "logs", log) if jobs else {}
    for title, stage in missing.items():
        result: Mapping[str, Any] = json.loads((stage.scratch / RESULT_NAME).read_text())
        stage.finish({**result, "seconds": secs[title]})
    return {name: stage.made() for name, stage in titles.values()}


def _make_imitation(stage: Stage, log: Callable[[str], None]) -> dict[str, Any]:
    if (report := stage.made()) is not None:
        log(f"imitation: reused, {report['rows']} answers")
        return report
    stage.begin(goes_on=True)
    directory = stage.directory
    job = ("vtblender_nemo.tiny.jobs", "imitation", str(directory), str(stage.scratch), str(stage.partial))
    log("imitation: the language model answers about transcripts")
    secs = run_side_by_side({"imitation": job}, directory / "logs", log)
    report = {**json.loads((stage.scratch / RESULT_NAME).read_text()), "seconds": secs["imitation"]}
    stage.finish(report)
    log(f"imitation: {report['rows']} answers in {report['seconds']:.0f} s")
    return report


def world_rows(world: TinyWorld) -> dict[str, list[dict[str, Any]]]:
    """All training rows by source."""
    return {name: read_jsonl(path) for name, path in world.sources.items()}
