"""Generated ids as text that grows, piece by piece, without a piece that later ids would change."""

from __future__ import annotations

from collections.abc import Sequence

from vtblender_nemo.common.chat import ChatFormat

_UNFINISHED = "\ufffd"  # what decoders write for the first bytes of a character


class GrowingText:
    """The text of an answer while its tokens come.

    All pieces together are `ChatFormat.decode` of all ids, up to the stop text that is complete first, however many characters a
    token has.

    Args:
        chat_format: decodes.
        stop: texts that end the answer.
    """

    def __init__(self, chat_format: ChatFormat, stop: Sequence[str] = ()) -> None:
        self._format = chat_format
        self._stop = tuple(stop)
        self._said = 0
        self.is_stopped = False

    def grown(self, ids: Sequence[int]) -> str:
        """What can be said now that these ids are known, and was not said before.

        Held back are half characters, and what may turn out to be space at the answer's end or the head of a stop text.
        """
        text = self._cut(self._format.decode(ids))
        if not self.is_stopped:
            text = text.rstrip(_UNFINISHED).rstrip()
            text = text[: len(text) - self._begun_stop(text)].rstrip()
        return self._say(text)

    def rest(self, ids: Sequence[int]) -> str:
        """What is left to say of an answer that is over."""
        return self._say(self._cut(self._format.decode(ids)))

    def _cut(self, text: str) -> str:
        found = [(begin + len(stop), begin) for stop in self._stop if (begin := text.find(stop)) >= 0]
        if not found:
            return text
        self.is_stopped = True
        _, begin = min(found)
        return text[:begin].rstrip()

    def _begun_stop(self, text: str) -> int:
        """How many characters at the end may be the head of a stop text."""
        heads = (stop[:length] for stop in self._stop for length in range(len(stop) - 1, 0, -1))
        return max((len(head) for head in heads if text.endswith(head)), default=0)

    def _say(self, text: str) -> str:
        new = text[self._said :]
        self._said = max(self._said, len(text))
        return new
