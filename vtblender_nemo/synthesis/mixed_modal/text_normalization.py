"""Written text as it is spoken: `3 kg` to `three kg`, `Dr.` to `Doctor`, by NeMo's grammars or by num2words.

Which of them works is a setting and never decided by what happens to be installed.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtblender_nemo.common.errors import ConfigError, MissingDependencyError

logger = logging.getLogger(__name__)

Normalizer = Callable[[str], str]

NORMALIZERS = ("num2words", "nemo", "none")


def check_normalizer(name: str) -> None:
    """
    Raises:
        ConfigError: an unknown name.
    """
    if name not in NORMALIZERS:
        raise ConfigError(
            "unknown text normaliser", value=name, expected=f"one of {', '.join(NORMALIZERS)}", knob="speech.normalizer"
        )


def open_normalizer(name: str, language: str) -> Normalizer:
    """A text normaliser; NeMo's grammar is built when a first text needs it.

    Args:
        name: `num2words`, `nemo` (NeMo text processing), or `none` (marks of layout are still taken out).
        language: two-letter code.

    Raises:
        MissingDependencyError: its library is not installed.
        ConfigError: it does not know the language.
    """
    check_normalizer(name)
    expand = {"nemo": _nemo, "num2words": _num2words, "none": _nothing}[name](language)
    return lambda text: " ".join(expand(plain_text(text)).split())


_SAME = str.maketrans(
    {
        "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "–": "-", "—": " - ", "−": "-",
        "…": "...", "\u00a0": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "•": " ",
    }
)  # fmt: skip

_LAYOUT = (
    (re.compile(r"^\s{0,3}#{1,6}\s+", re.MULTILINE), ""),  # headings
    (re.compile(r"^\s*(?:[-*+]|\d{1,2}[.)])\s+", re.MULTILINE), ""),  # list items
    (re.compile(r"(?<!\w)(\*{1,3}|_{1,3})(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),  # emphasis
)


def plain_text(text: str) -> str:
    """The text with typewriter quotes and dashes, without Markdown's headings, list marks and emphasis."""
    text = text.translate(_SAME)
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    return text


def _nothing(language: str) -> Normalizer:
    return lambda text: text


def _nemo(language: str) -> Normalizer:
    try:
        from nemo_text_processing.text_normalization import normalize
    except ImportError as error:
        raise MissingDependencyError(
            "NeMo text processing is not installed",
            expected="pip install 'vtblender_nemo[tts]', or speech.normalizer: num2words",
        ) from error
    folders = Path(normalize.__file__).parent.glob("*/taggers/tokenize_and_classify.py")
    known = sorted({path.parts[-3] for path in folders} - _SEVERAL_READINGS)
    if language not in known:
        raise _unknown_language("NeMo text processing", language, known)
    # Every call of `normalize` sets the logger's level anew, so that only a filter keeps it quiet.
    logging.getLogger("NeMo-text-processing").addFilter(_is_warning)

    @functools.cache
    def grammar() -> Any:
        logger.warning("building the grammar of text normalisation (speech.normalizer: nemo), most of a minute")
        return normalize.Normalizer(input_case="cased", lang=language)

    return lambda text: grammar().normalize(text, verbose=False, punct_pre_process=True, punct_post_process=True)


_SEVERAL_READINGS = {"ru"}  # its grammar gives many readings of a text and chooses none


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _unknown_language(who: str, language: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{who} does not know this language",
        value=language,
        expected=f"one of {', '.join(known)}",
        knob="language, or speech.normalizer",
    )


def _num2words(language: str) -> Normalizer:
    try:
        from num2words import CONVERTER_CLASSES, num2words
    except ImportError as error:
        raise MissingDependencyError(
            "spelling numbers out needs the package num2words",
            expected="pip install 'vtblender_nemo[synthesis]', or speech.normalizer: none",
        ) from error
    try:
        num2words(1, lang=language)
    except NotImplementedError as error:
        raise _unknown_language("num2words", language, sorted(CONVERTER_CLASSES)) from error

    def say(number: str, to: str = "cardinal") -> str:
        value = float(number) if "." in number else int(number)
        return num2words(value, lang=language, to=to).replace(",", "").replace("-", " ")

    return _english(say) if language == "en" else _other_language(say)


Say = Callable[..., str]

_SHORT = {
    "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miss", "Dr.": "Doctor", "Prof.": "Professor", "e.g.": "for example",
    "i.e.": "that is", "vs.": "versus", "approx.": "approximately", "etc.": "et cetera", "No.": "number",
}  # fmt: skip
_SHORT_BEFORE_NUMBERS = {"No."}
_MONEY = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny")}
_PLURALS = {"penny": "pence"}
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


def _english(say: Say) -> Normalizer:
    """Rules for English, applied in this order: the longest written form of a number comes first."""

    def number(text: str) -> str:
        return say(text.replace(",", ""))

    def money(match: re.Match[str]) -> str:
        unit, small = _MONEY[match["sign"]]
        if match["scale"]:
            return f"{number(match['amount'])} {match['scale']} {unit}s"
        whole, _, cents = match["amount"].replace(",", "").partition(".")
        said = f"{say(whole)} {_plural(unit, whole)}"
        return said if not cents.strip("0") else f"{said} and {say(str(int(cents)))} {_plural(small, str(int(cents)))}"

    def clock(match: re.Match[str]) -> str:
        minutes = "" if match["minute"] == "00" else (" oh" if match["minute"] < "10" else "")
        minutes += f" {say(str(int(match['minute'])))}" if match["minute"] != "00" else ""
        half = f" {match['half'][0].upper()} M" if match["half"] else ("" if minutes else " o'clock")
        return f"{say(match['hour'])}{minutes}{half}"

    def decade(match: re.Match[str]) -> str:
        said = say(match[1], "year")
        return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"

    def fraction(match: re.Match[str]) -> str:
        above, below = int(match[1]), int(match[2])
        if not 0 < above < below <= 10:
            return f"{match[1]} {match[2]}"  # 24/7, 9/11
        part = {2: "half", 4: "quarter"}.get(below) or say(match[2], "ordinal")
        return f"{say(match[1])} {part if above == 1 else f'{part}s'}"

    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (rf"(?<![\w.])-(?={_NUMBER})", lambda match: "minus "),
        (r"(?P<sign>[$€£])\s?(?P<amount>" + _NUMBER + r")(?:\s(?P<scale>thousand|million|billion|trillion)\b)?", money),
        (r"\b(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?!:|\d)(?:\s?(?P<half>[AaPp])\.?[Mm]\b\.?)?", clock),
        (rf"(?P<number>{_NUMBER})\s?%", lambda match: f"{number(match['number'])} percent"),
        (rf"(?P<number>{_NUMBER})\s?°\s?C\b", lambda match: f"{number(match['number'])} degrees Celsius"),
        (rf"(?P<number>{_NUMBER})\s?°\s?F\b", lambda match: f"{number(match['number'])} degrees Fahrenheit"),
        (r"\b(\d+)(?:st|nd|rd|th)\b", lambda match: say(match[1], "ordinal")),
        (r"\b(1[1-9]\d0|20\d0)s\b", decade),
        (r"(?<![\d/])(\d{1,2})/(\d{1,2})(?![\d/])", fraction),
        (r"(?<=\d)/(?=\d)", lambda match: " "),  # dates
        (r"#(?=\d)", lambda match: "number "),
        (r"(?<=\d)-(?=\d)", lambda match: " to "),
        (r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(?![\d,]|\.\d)", lambda match: say(match[1], "year")),
        (rf"({_NUMBER})(?=[A-Za-z])", lambda match: f"{number(match[1])} "),
        (_NUMBER, lambda match: number(match[0])),
        (r"\s?&\s?", lambda match: " and "),
        (r"\+", lambda match: " plus "),
        (r"(?<=[A-Za-z])/(?=[A-Za-z])", lambda match: " "),
    ]
    compiled = [(re.compile(pattern), replace) for pattern, replace in rules]
    short = re.compile("|".join(rf"(?<![\w.]){re.escape(key)}" for key in _SHORT))

    def expand(text: str) -> str:
        text = short.sub(lambda match: _unshortened(match, text), text)
        for pattern, replace in compiled:
            text = pattern.sub(replace, text)
        return text

    return expand


def _plural(unit: str, number: str) -> str:
    return unit if number == "1" else _PLURALS.get(unit, f"{unit}s")


def _unshortened(match: re.Match[str], text: str) -> str:
    rest = text[match.end() :].strip()
    if match[0] in _SHORT_BEFORE_NUMBERS and not rest[:1].isdigit():
        return match[0]
    return _SHORT[match[0]] + ("" if rest else ".")  # the full stop of a sentence stays


def _other_language(say: Say) -> Normalizer:
    """Whole and decimal numbers alone; a point or comma before groups of three parts thousands."""
    thousands = re.compile(r"\b\d{1,3}(?:[.,]\d{3})+\b")
    decimal = re.compile(r"\b(\d+)[.,](\d+)\b")
    whole = re.compile(r"\d+")

    def expand(text: str) -> str:
        text = thousands.sub(lambda match: say(re.sub(r"\D", "", match[0])), text)
        text = decimal.sub(lambda match: say(f"{match[1]}.{match[2]}"), text)
        return whole.sub(lambda match: say(match[0]), text)

    return expand
