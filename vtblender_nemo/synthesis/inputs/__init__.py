"""What synthesis reads: `open_speech` for transcribed speech, `open_chats` for chats; both give `InputRows`."""

from vtblender_nemo.synthesis.inputs.chats import open_chats
from vtblender_nemo.synthesis.inputs.rows import InputRows
from vtblender_nemo.synthesis.inputs.speech import SpeechRows, open_speech

__all__ = ["InputRows", "SpeechRows", "open_chats", "open_speech"]
