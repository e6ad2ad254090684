"""Two readings of one answer, side by side."""

from __future__ import annotations

from tests.fidelity.sdks import Ask, Question, Reading, Refused


def read(
    ask: Ask, url: str, question: Question, stream: bool, headers: dict[str, str]
) -> Reading | Exception:
    try:
        return ask(url, question, stream, headers)
    except Exception as error:  # whatever an SDK raises is its reading
        return error


def difference(got: Reading | Exception, want: Reading | Exception, refused: int = 0) -> str | None:
    """None when both readers understood the same."""
    if refused:
        if isinstance(got, Refused) and got.status == refused:
            return (
                None if "prompt is too long" in str(got) else f"the client cannot know what is wrong: {got}"
            )
        return f"expected status {refused}, got {got!r}"
    if isinstance(want, Exception):
        return f"the oracle itself fails: {want!r}"
    if isinstance(got, Exception):
        return f"{type(got).__name__}: {got}"
    for name in ("text", "tools", "stop"):
        if getattr(got, name) != getattr(want, name):
            return f"{name}: {getattr(got, name)!r}, the oracle read {getattr(want, name)!r}"
    if got.reasoning != want.reasoning and want.reasoning:
        return f"reasoning: {got.reasoning!r}, the oracle read {want.reasoning!r}"
    if want.output_tokens and got.output_tokens != want.output_tokens:
        return f"output tokens: {got.output_tokens}, the oracle read {want.output_tokens}"
    if want.input_tokens and abs(got.input_tokens - want.input_tokens) > _slack(want.input_tokens):
        return f"input tokens: {got.input_tokens}, the oracle read {want.input_tokens}"
    return None


def _slack(tokens: int) -> int:
    """How far input counts may differ: a translated request is written a little differently (tool templates)."""
    return max(8, tokens // 4)
