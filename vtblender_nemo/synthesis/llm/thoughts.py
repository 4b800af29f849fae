"""What reasoning models think aloud before they answer."""

from __future__ import annotations

import re

# Up to the last mark of its end, as some chat templates write that of its beginning in the prompt; or what was never ended.
_THOUGHTS = re.compile(
    r"\A.*(?:</(?:think|thinking|reasoning|thought|seed:think)>|\[/THINK\]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>)"
    r"|(?:<(?:think|thinking|reasoning|thought|seed:think)>|\[THINK\]|<\|begin_of_thought\|>|<\|channel\|>analysis).*\Z",
    re.DOTALL | re.IGNORECASE,
)


def without_thoughts(reply: str) -> str:
    """The answer alone; empty where thinking has not come to an end."""
    return _THOUGHTS.sub("", reply)


def has_thoughts(reply: str) -> bool:
    """Whether something was thought aloud."""
    return _THOUGHTS.search(reply) is not None
