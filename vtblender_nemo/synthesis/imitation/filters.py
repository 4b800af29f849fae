"""Answers that are no targets for a model that hears: every check can be switched off, and says why it refuses.

What is said in the transcript may be said again: no check refuses words that a faithful answer has from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vtblender_nemo.synthesis.llm.thoughts import has_thoughts
from vtblender_nemo.synthesis.word_overlap import words
from vtblender_nemo.synthesis.work import Refused

_DECLINED = (
    r"answer|assist|comply|engage|fulfill?|generate|help|provide|rewrite|summari[sz]e|translate|view|do (?:that|this)"
)
_MODEL = r"an? (?:AI|(?:large )?language model|virtual assistant)"
_REFUSAL = re.compile(
    rf"\bI(?: am|['’]m)? (?:can ?not|can['’]?t|unable to|not able to|won['’]?t|will not) (?:{_DECLINED})\b"
    r"|\bI (?:do not|don['’]?t) have (?:access|the ability|enough (?:context|information))\b"
    rf"|\b(?:as|I am|I['’]m)(?: just| only)? {_MODEL}\b"
    r"|\bplease (?:provide|share|send|paste)\b[^.!?\n]*\b(?:text|transcript|sentence|passage|paragraph|content|context|input)s?\b"
    r"|\b(?:ich kann|leider kann ich)\b[^.!?\n]*\bnicht (?:helfen|beantworten|übersetzen|zusammenfassen)\b"
    r"|\b(?:je ne peux pas|je ne suis pas en mesure de)\b[^.!?\n]{0,20}\b(?:aider|répondre|traduire|résumer|fournir)\b"
    r"|\b(?:no puedo|no soy capaz de)\b[^.!?\n]{0,20}\b(?:ayudar|responder|traducir|resumir|proporcionar)"
    r"|(?:抱歉|对不起)[^。！？\n]{0,10}(?:无法|不能)",
    re.IGNORECASE,
)
_THINGS_READ = r"(?:texts?|transcripts?|transcriptions?|passages?|paragraphs?|excerpts?|documents?|snippets?|articles?)"
_NAMES_THING_READ = re.compile(rf"\b{_THINGS_READ}\b|\btextes?\b|\btextos?\b|文本|原文", re.IGNORECASE)
_READING = re.compile(
    r"\b(?:the|this|that|your|no)(?: (?:given|provided|following|above|original|input|source|short|brief|whole|entire|same))*"
    rf" {_THINGS_READ}\b"
    r"|\byou(?: have|['’]ve)? (?:typed|pasted)\b"
    r"|\b(?:der|den|dem|des|dieser|diesen|diesem|im) Text(?:es)?\b|\b(?:el|este|del|al) texto\b|\b(?:le|ce|du|au) texte\b"
    r"|文本|原文",
    re.IGNORECASE,
)
_MOST_REPEATS = 4
"""Times that a phrase may stand in a row; more is a loop unless the speaker says it as often."""
_MOST_REPEATS_IN_WORD = 14
_LOOP_IN_WORD = re.compile(rf"(\w{{1,20}}?)\1{{{_MOST_REPEATS_IN_WORD},}}")  # "hahaha...", and scripts without spaces


@dataclass(frozen=True)
class FilterOptions:
    """Which checks work.

    Attributes:
        refusals: the LLM declines, or asks for what it has been given.
        reading: the answer speaks of a text, which nobody has who hears speech.
        loops: a phrase comes again and again, more often than in the transcript.
    """

    refusals: bool = True
    reading: bool = True
    loops: bool = True


def judge(answer: str, transcript: str, options: FilterOptions) -> Refused | None:
    """Why an answer is no target; None keeps it.

    Args:
        answer: all that the LLM has said.
        transcript: what it was asked about.
        options: which checks work; answers without words, and thoughts before answers, are always refused.
    """
    if not answer.strip():
        return Refused("reply_empty")
    if has_thoughts(answer):
        return Refused("reply_thinks_aloud", answer)
    if not words(answer, ""):
        return Refused("answer_without_words", answer)
    if options.refusals and _REFUSAL.search(answer) and not _REFUSAL.search(transcript):
        return Refused("answer_declines", answer)
    if options.reading and _READING.search(answer) and not _NAMES_THING_READ.search(transcript):
        return Refused("answer_speaks_of_a_text", answer)
    if options.loops and _loops(answer, transcript):
        return Refused("answer_loops", answer)
    return None


def _loops(answer: str, transcript: str) -> bool:
    if _LOOP_IN_WORD.search(answer) and not _LOOP_IN_WORD.search(transcript):
        return True
    return most_repeats(answer) > max(_MOST_REPEATS, most_repeats(transcript))


def most_repeats(text: str) -> int:
    """Times that some phrase, of one word or more, stands in a row: 3 in "so so so", 2 in "on and on and".

    Phrases of more than a fifth of the text are not looked for, as they cannot come more than `_MOST_REPEATS` times.
    """
    found = words(text, "")
    most = min(len(found), 1)
    for length in range(1, len(found) // _MOST_REPEATS + 1):
        run = 0
        for earlier, word in zip(found, found[length:], strict=False):
            run = run + 1 if word == earlier else 0
            most = max(most, run // length + 1)
    return most
