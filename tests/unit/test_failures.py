"""What provider errors mean, and what the client hears in the end. Texts are providers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ccm.model import Endpoint, Failure, KeySource, ModelFacts, Provider, ProviderError, Secret, Target
from ccm.model import FailureKind as K
from ccm.routing.failures import POLICY, Final, classify, error_type_for_stream, final, scope_of, summary
from ccm.routing.words import overflow_numbers

NOW = 1_795_000_000.0


def error(status: int, message: str = "", code: str = "", **more: Any) -> ProviderError:
    return ProviderError(status, more.pop("type", "api_error"), message, code, **more)


def kind(status: int, message: str = "", code: str = "", **more: Any) -> K:
    return classify(error(status, message, code, **more), now_wall=NOW).kind


def target(
    name: str = "openai", dialect: str = "openai_chat", window: int = 128_000, key: str = "env"
) -> Target:
    provider = Provider(name, name, dialect, "https://x")
    source = KeySource(key, f"{name.upper()}_API_KEY", Secret("s", "x"))
    return Target(Endpoint(name, provider, source), "m", ModelFacts("m", window=window))


def failed(kind_: K, status: int = 0, message: str = "", wait: float | None = None, **more: Any) -> Failure:
    return Failure(kind_, error(status, message, **more), wait)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, K.CALLER_FAULT), (401, K.CREDENTIAL), (402, K.QUOTA), (403, K.CREDENTIAL), (404, K.MODEL_GONE),
        (405, K.CALLER_FAULT), (408, K.HEAD_TIMEOUT), (409, K.CALLER_FAULT), (413, K.CALLER_FAULT),
        (418, K.CALLER_FAULT), (422, K.CALLER_FAULT), (425, K.HEAD_TIMEOUT), (429, K.RATE_LIMIT), (451, K.REGION),
        (498, K.OVERLOADED), (500, K.TRANSIENT), (501, K.TRANSIENT), (502, K.TRANSIENT), (503, K.OVERLOADED),
        (504, K.TRANSIENT), (520, K.TRANSIENT), (524, K.TRANSIENT), (529, K.OVERLOADED), (599, K.TRANSIENT),
        (302, K.PROTOCOL), (0, K.BROKEN),
    ],
)  # fmt: skip
def test_status_alone(status: int, expected: K) -> None:
    assert kind(status, type="x") is expected


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        # quota before rate limit: both come with 429
        (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details.", K.QUOTA),
        (429, "rate_limit_exceeded", "Rate limit reached for gpt-5 on tokens per min (TPM): Limit 10000", K.RATE_LIMIT),
        (429, "rate_limit_error", "Your credit balance is too low to access the Anthropic API.", K.QUOTA),
        (429, "rate_limit_error", "This request would exceed your organization's rate limit of 1 requests per minute", K.RATE_LIMIT),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing", K.QUOTA),
        (400, "invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01", K.QUOTA),
        (429, "enforced_spend_limit_reached", "", K.QUOTA),
        (402, "", "Insufficient Balance", K.QUOTA),
        (402, "402", "This request requires more credits, or fewer max_tokens.", K.QUOTA),
        (429, "usage_limit_reached", "The usage limit has been reached", K.QUOTA),
        # overload
        (529, "overloaded_error", "Overloaded", K.OVERLOADED),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", K.OVERLOADED),
        (500, "api_error", "Overloaded", K.OVERLOADED),
        (503, "ServiceUnavailableException", "Bedrock is unable to process your request.", K.OVERLOADED),
        (429, "ModelNotReadyException", "The model is not ready", K.OVERLOADED),
        (503, "slow_down", "", K.OVERLOADED),
        (429, "engine_overloaded_error", "The engine is currently overloaded, please try again later", K.OVERLOADED),
        # rate limits
        (400, "com.amazon.coral.service#ThrottlingException", "Too many tokens, please wait before trying again.", K.RATE_LIMIT),
        (429, "ThrottlingException:http://internal", "Too many requests", K.RATE_LIMIT),
        (413, "rate_limit_exceeded", "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 9363", K.RATE_LIMIT),
        (429, "429", "Provider returned error", K.RATE_LIMIT),
        # keys
        (401, "authentication_error", "invalid x-api-key", K.CREDENTIAL),
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", K.CREDENTIAL),
        (400, "API_KEY_INVALID", "", K.CREDENTIAL),
        (400, "", "Incorrect API key provided: xa***1. You can obtain an API key from https://console.x.ai", K.CREDENTIAL),
        (403, "", "The security token included in the request is invalid.", K.CREDENTIAL),
        (403, "PERMISSION_DENIED", "Generative Language API has not been used in project 1 before", K.CREDENTIAL),
        # regions
        (403, "unsupported_country_region_territory", "Country, region, or territory not supported", K.REGION),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", K.REGION),
        # models
        (404, "not_found_error", "model: claude-x", K.MODEL_GONE),
        (404, "model_not_found", "The model `gpt-9.5` does not exist or you do not have access to it.", K.MODEL_GONE),
        (400, "model_not_found", "The requested model 'gpt-5.2-proo' does not exist.", K.MODEL_GONE),
        (400, "", "The provided model identifier is invalid.", K.MODEL_GONE),
        (400, "invalid_request_error", "models/gemini-9 is not found for API version v1beta", K.MODEL_GONE),
        (400, "400", "no-such/model-1.5 is not a valid model ID", K.MODEL_GONE),
        (404, "DeploymentNotFound", "The API deployment for this resource does not exist.", K.MODEL_GONE),
        (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", K.MODEL_ACCESS),
        (403, "", "Your project does not have access to model gpt-5", K.MODEL_ACCESS),
        # overflow
        (400, "invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum", K.CONTEXT_TOO_LONG),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 64000 > 200000", K.CONTEXT_TOO_LONG),
        (400, "context_length_exceeded", "Your input exceeds the context window of this model.", K.CONTEXT_TOO_LONG),
        (400, "invalid_request_error", "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens", K.CONTEXT_TOO_LONG),
        (400, "INVALID_ARGUMENT", "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).", K.CONTEXT_TOO_LONG),
        (400, "ValidationException", "Input is too long for requested model.", K.CONTEXT_TOO_LONG),
        (400, "ValidationException", "Input Tokens Exceeded: Number of input tokens exceeds maximum length", K.CONTEXT_TOO_LONG),
        (400, "400", "This endpoint's maximum context length is 200000 tokens. However, you requested about 2500021 tokens", K.CONTEXT_TOO_LONG),
        (400, "", "prompt too long; exceeded max context length by 100 tokens", K.CONTEXT_TOO_LONG),
        (400, "too_many_prompt_tokens", "", K.CONTEXT_TOO_LONG),
        (500, "server_error", "the request exceeds the available context size. try increasing the context size", K.CONTEXT_TOO_LONG),
        (413, "", "Please reduce the length of the messages or completion.", K.CONTEXT_TOO_LONG),
        (400, "3051", "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", K.CONTEXT_TOO_LONG),
        (400, "", "This model's maximum prompt length is 131072 but the request contains 537812 tokens.", K.CONTEXT_TOO_LONG),
        (400, "invalid_request_error", "Your request exceeded model token limit: 262144 (requested: 300000)", K.CONTEXT_TOO_LONG),
        # refusals
        (400, "content_filter", "The response was filtered", K.REFUSED),
        (400, "invalid_request_error", "Your request was rejected as a result of our safety system.", K.REFUSED),
        # the caller's fault, whatever words it quotes
        (400, "invalid_request_error", "messages.1.role: Input should be 'user' or 'assistant'", K.CALLER_FAULT),
        (400, "unsupported_parameter", "Unsupported parameter: 'stop' is not supported with this model.", K.CALLER_FAULT),
        (400, "invalid_request_error", "max_tokens: 128000 > 32000, which is the maximum allowed number of output tokens for X", K.CALLER_FAULT),
        (400, "invalid_request_error", "This model does not support the effort parameter.", K.CALLER_FAULT),
        (413, "request_too_large", "Request exceeds the maximum size", K.CALLER_FAULT),
        (400, "tool_use_failed", "Tool call validation failed: parameters for tool x did not match schema", K.CALLER_FAULT),
        # 5xx
        (500, "INTERNAL", "An internal error has occurred.", K.TRANSIENT),
        (504, "DEADLINE_EXCEEDED", "The service was unable to finish processing within the deadline.", K.TRANSIENT),
        (424, "ModelErrorException", "", K.TRANSIENT),
        # inside a 200
        (200, "overloaded_error", "Overloaded", K.OVERLOADED),
        (200, "server_error", "The server had an error", K.TRANSIENT),
        (200, "rate_limit_exceeded", "Rate limit reached", K.RATE_LIMIT),
    ],
)  # fmt: skip
def test_codes_and_phrases(status: int, code: str, message: str, expected: K) -> None:
    assert (
        kind(status, message, code, type="invalid_request_error" if status == 400 else "api_error")
        is expected
    )


def test_a_preset_kind_stays() -> None:
    for preset in (K.CONNECT, K.IDLE_TIMEOUT, K.PROTOCOL):
        assert kind(0, "rate limit, quota, overloaded", kind=preset) is preset


def test_types_speak_where_there_is_no_status() -> None:
    assert kind(0, "something", type="overloaded_error") is K.OVERLOADED
    assert kind(200, "something", type="rate_limit_error") is K.RATE_LIMIT
    assert kind(200, "something", type="invalid_request_error") is K.CALLER_FAULT
    assert kind(200, "something", type="?") is K.PROTOCOL


GOOGLE = "You exceeded your current quota, please check your plan and billing details."


def google(quota_id: str, delay: str | None) -> bytes:
    details: list[Any] = [{"violations": [{"quotaId": quota_id}]}]
    if delay:
        details.append({"retryDelay": delay})
    return json.dumps({"error": {"code": 429, "details": details}}).encode()


def test_google_says_quota_for_everything() -> None:
    code = "RESOURCE_EXHAUSTED"
    minute = classify(error(429, GOOGLE, code, body=google("TokensPerModelPerMinute", "48s")), now_wall=NOW)
    assert (minute.kind, minute.retry_after_s) == (K.RATE_LIMIT, 48.0)
    assert kind(429, GOOGLE, code, body=google("RequestsPerDayPerProject", "48s")) is K.QUOTA
    assert kind(429, GOOGLE, code, body=google("x", None)) is K.QUOTA
    assert kind(429, "Resource has been exhausted (e.g. check quota).", code) is K.RATE_LIMIT


def test_openrouter_hides_the_upstreams_words_in_the_body() -> None:
    body = b'{"error":{"message":"Provider returned error","metadata":{"raw":"prompt is too long: 9 tokens > 8 maximum"}}}'
    assert kind(400, "Provider returned error", "400", body=body) is K.CONTEXT_TOO_LONG
    assert kind(400, "messages: wrong", "400", body=body) is K.CALLER_FAULT


def test_retry_after_and_should_retry_are_taken_over() -> None:
    headers = {"retry-after": "7", "x-should-retry": "false"}
    failure = classify(error(429, headers=headers), now_wall=NOW)
    assert (failure.retry_after_s, failure.should_retry) == (7.0, False)
    assert classify(error(429, headers={"x-should-retry": "true"}), now_wall=NOW).should_retry is True
    assert classify(error(429, headers={"x-should-retry": "?"}), now_wall=NOW).should_retry is None


def test_every_kind_has_a_policy() -> None:
    assert set(POLICY) == set(K)
    for kind_, policy in POLICY.items():
        assert (policy.penalty == "") == (policy.scope == ""), kind_


def test_a_spent_subscription_window_is_the_keys() -> None:
    headers = {"anthropic-ratelimit-unified-status": "rejected"}
    assert scope_of(failed(K.RATE_LIMIT, 429, headers=headers)) == "key"
    assert scope_of(failed(K.RATE_LIMIT, 429)) == "model"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("prompt is too long: 250000 tokens > 200000 maximum", (250000, 200000)),
        ("input length and `max_tokens` exceed context limit: 190000 + 64000 > 200000, decrease", (190000, 200000)),
        ("This model's maximum context length is 128000 tokens. However, your messages resulted in 210000 tokens.", (210000, 128000)),
        ("maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages, 1000 in the completion)", (5000, 4096)),
        ("This endpoint's maximum context length is 200000 tokens. However, you requested about 2500021 tokens (2500021 of text input).", (2500021, 200000)),
        ("The input token count (1,100,000) exceeds the maximum number of tokens allowed (1,048,576).", (1100000, 1048576)),
        ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", (40000, 32768)),
        ("This model's maximum prompt length is 131072 but the request contains 537812 tokens.", (537812, 131072)),
        ("Your request exceeded model token limit: 262144 (requested: 300000)", (300000, 262144)),
        ("prompt token count of 130001 exceeds the limit of 128000", (130001, 128000)),
        ("the request (9001 tokens) exceeds the available context size (8192 tokens)", (9001, 8192)),
        ("Your input exceeds the context window of this model.", (None, None)),
        ("Input is too long for requested model.", (None, None)),
        ("Input exceeds the maximum of 32000 tokens", (None, 32000)),
    ],
)  # fmt: skip
def test_overflow_numbers(text: str, numbers: tuple[int | None, int | None]) -> None:
    assert overflow_numbers(text) == numbers


def test_overflow_numbers_of_llama_cpp_stand_in_the_body() -> None:
    body = b'{"error":{"type":"exceed_context_size_error","n_prompt_tokens":9001,"n_ctx":8192}}'
    assert overflow_numbers("the request exceeds the available context size", body) == (9001, 8192)


# ---- final


def one(*failures: Failure, **more: Any) -> Final:
    return final([(target(), failure) for failure in failures], **more)


def test_overload_is_never_529_nor_the_word() -> None:
    made = one(failed(K.OVERLOADED, 529, "overloaded_error: Overloaded"), soonest_s=4.2)
    assert (made.status, made.type, made.headers["retry-after"]) == (503, "api_error", "5")
    assert "overloaded_error" not in made.message
    assert one(failed(K.OVERLOADED, 529), soonest_s=500.0).headers["retry-after"] == "30"
    assert one(failed(K.OVERLOADED, 529)).headers["retry-after"] == "1"


def test_rate_limits_tell_the_soonest_time_up_to_60() -> None:
    made = one(failed(K.RATE_LIMIT, 429, wait=40.0), failed(K.RATE_LIMIT, 429, wait=7.1))
    assert (made.status, made.type, made.headers["retry-after"]) == (429, "rate_limit_error", "8")
    assert one(failed(K.RATE_LIMIT, 429, wait=3600.0)).headers["retry-after"] == "60"
    assert one(failed(K.RATE_LIMIT, 429, wait=40.0), soonest_s=0.0).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("kinds", "status", "type"),
    [
        ([K.CREDENTIAL], 403, "permission_error"),
        ([K.QUOTA, K.CREDENTIAL], 403, "permission_error"),
        ([K.REGION], 403, "permission_error"),
        ([K.MODEL_GONE], 404, "not_found_error"),
        ([K.MODEL_ACCESS, K.CREDENTIAL], 404, "not_found_error"),
        ([K.TRANSIENT, K.CREDENTIAL], 503, "api_error"),
        ([K.CONNECT], 503, "api_error"),
        ([K.BROKEN, K.PROTOCOL], 502, "api_error"),
        ([K.BROKEN, K.TRANSIENT], 503, "api_error"),
        ([K.HEAD_TIMEOUT, K.FIRST_CONTENT_TIMEOUT], 504, "timeout_error"),
        ([K.HEAD_TIMEOUT, K.TRANSIENT], 503, "api_error"),
        ([K.OVERLOADED, K.TRANSIENT, K.CREDENTIAL], 503, "api_error"),
        ([K.OVERLOADED, K.RATE_LIMIT, K.CREDENTIAL], 429, "rate_limit_error"),
        ([K.RATE_LIMIT, K.CALLER_FAULT], 400, "invalid_request_error"),
        ([K.CONTEXT_TOO_LONG, K.RATE_LIMIT], 400, "invalid_request_error"),
        ([K.INTERNAL], 500, "api_error"),
    ],
)
def test_which_failure_speaks(kinds: list[K], status: int, type: str) -> None:
    made = one(*[failed(kind, 0, "said", type="?") for kind in kinds])
    assert (made.status, made.type) == (status, type)


def test_permanent_ones_ask_not_to_retry() -> None:
    for kind_ in (K.CREDENTIAL, K.QUOTA, K.REGION, K.MODEL_GONE):
        assert one(failed(kind_)).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in one(failed(K.TRANSIENT, 500)).headers


def test_a_rejected_key_names_provider_and_fix_and_shows_no_key() -> None:
    made = one(failed(K.CREDENTIAL, 401, "Incorrect API key provided: sk-proj-abcdefghijklmnop"))
    assert "openai rejected its key (401)" in made.message
    assert "environment variable OPENAI_API_KEY" in made.message
    assert "ccmctl reload" in made.message
    assert "abcdef" not in made.message


def test_keys_in_other_texts_are_redacted() -> None:
    for said in ("bad sk-proj-abcdefghijklmnop here", "bad sk-ab***mnop here"):
        for kind_ in (K.QUOTA, K.TRANSIENT, K.CALLER_FAULT):
            made = one(failed(kind_, 400, said))
            assert "[key]" in made.message and "mnop" not in made.message
        assert "mnop" not in summary(failed(K.QUOTA, 402, said))


def test_a_callers_fault_is_the_providers_own_answer() -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"tools.0: bad"}}'
    failure = failed(K.CALLER_FAULT, 422, "tools.0: bad", type="invalid_request_error", body=body)
    made = final([(target("anthropic", "anthropic"), failure)])
    assert (made.status, made.type, made.message, made.body) == (
        422,
        "invalid_request_error",
        "tools.0: bad",
        body,
    )
    assert final([(target("openai"), failure)]).body == b""
    html = failed(K.CALLER_FAULT, 400, "x", body=b"<html>")
    assert final([(target("anthropic", "anthropic"), html)]).body == b""


def test_a_fault_inside_a_stream_becomes_400() -> None:
    assert one(failed(K.CALLER_FAULT, 200, "x", type="invalid_request_error")).status == 400


def test_should_retry_of_a_fault_is_passed_on() -> None:
    failure = Failure(K.CALLER_FAULT, error(409, "x"), should_retry=True)
    assert one(failure).headers["x-should-retry"] == "true"


OVERFLOW = (
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 210000 tokens."
)


def test_overflow_is_rewritten_to_the_words_the_client_knows() -> None:
    made = one(failed(K.CONTEXT_TOO_LONG, 400, OVERFLOW), window=1, tokens=1)
    assert (made.status, made.message) == (400, "prompt is too long: 210000 tokens > 128000 maximum")


def test_overflow_without_numbers_uses_estimate_and_window() -> None:
    failure = failed(K.CONTEXT_TOO_LONG, 400, "Input is too long for requested model.")
    assert (
        one(failure, window=200000, tokens=250000).message
        == "prompt is too long: 250000 tokens > 200000 maximum"
    )
    assert (
        one(failure, window=200000, tokens=1000).message
        == "prompt is too long: 200001 tokens > 200000 maximum"
    )
    assert one(failure).message == "prompt is too long: 128001 tokens > 128000 maximum"


def test_overflow_of_the_largest_window_counts() -> None:
    small = failed(K.CONTEXT_TOO_LONG, 400, "prompt is too long: 900000 tokens > 128000 maximum")
    large = failed(K.CONTEXT_TOO_LONG, 400, "prompt is too long: 910000 tokens > 200000 maximum")
    made = final([(target(window=200_000), large), (target(window=128_000), small)])
    assert made.message == "prompt is too long: 910000 tokens > 200000 maximum"


def test_anthropics_other_overflow_text_stays() -> None:
    text = "input length and `max_tokens` exceed context limit: 190000 + 64000 > 200000, decrease input length or `max_tokens` and try again"
    body = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": text}}).encode()
    made = final([(target("anthropic", "anthropic"), failed(K.CONTEXT_TOO_LONG, 400, text, body=body))])
    assert (made.message, made.body) == (text, body)


def test_anthropics_own_overflow_goes_through_as_it_came() -> None:
    text = "prompt is too long: 250000 tokens > 200000 maximum"
    body = json.dumps({"error": {"message": text}}).encode()
    made = final([(target("anthropic", "anthropic"), failed(K.CONTEXT_TOO_LONG, 400, text, body=body))])
    assert (made.message, made.body) == (text, body)
    other = final([(target("z", "anthropic"), failed(K.CONTEXT_TOO_LONG, 400, OVERFLOW, body=body))])
    assert other.body == b""


def test_nothing_reserved_is_busy() -> None:
    made = final([], soonest_s=None)
    assert (made.status, made.type, made.headers) == (503, "api_error", {"retry-after": "1"})


def test_attempts_are_listed() -> None:
    made = final([(target("a"), failed(K.OVERLOADED, 529)), (target("b"), failed(K.CONNECT))])
    assert made.headers["x-ccm-attempts"] == "a=529, b=connect"


@pytest.mark.parametrize(
    ("failure", "type"),
    [
        (failed(K.BROKEN, 0, "cut"), "api_error"),
        (failed(K.IDLE_TIMEOUT), "api_error"),
        (failed(K.OVERLOADED, 200, "Overloaded"), "overloaded_error"),
        (failed(K.RATE_LIMIT, 200), "rate_limit_error"),
        (failed(K.CREDENTIAL, 200), "permission_error"),
        (failed(K.CALLER_FAULT, 200), "invalid_request_error"),
        (failed(K.INTERNAL), "api_error"),
    ],
)
def test_errors_after_commit(failure: Failure, type: str) -> None:
    found, message = error_type_for_stream(failure)
    assert found == type
    assert message


def test_an_overflow_after_commit_has_the_same_words() -> None:
    made = error_type_for_stream(failed(K.CONTEXT_TOO_LONG, 200, OVERFLOW))
    assert made == ("invalid_request_error", "prompt is too long: 210000 tokens > 128000 maximum")


RECORDED = {
    401: {K.CREDENTIAL}, 403: {K.CREDENTIAL}, 404: {K.MODEL_GONE}, 429: {K.RATE_LIMIT},
    400: {K.CALLER_FAULT, K.MODEL_GONE, K.CONTEXT_TOO_LONG},
}  # fmt: skip


def test_recorded_errors(shared: Path) -> None:
    """Every recorded error is of a kind its status allows, and models that do not exist are known as gone."""
    items = [item for item in json.loads((shared / "corpus/index.json").read_text()) if item["status"] >= 400]
    assert len(items) > 10
    for item in items:
        body = (shared / "corpus" / item["response"]).read_bytes()
        parsed = json.loads(body)
        inner = parsed.get("error", parsed)
        code = str(inner.get("code") or inner.get("status") or inner.get("type") or "")
        message = str(inner.get("message") or parsed.get("detail") or "")
        found = kind(item["status"], message, code, body=body)
        assert found in RECORDED[item["status"]], (item["id"], found)
        if "does-not-exist" in item["model"] or "does not exist" in message:
            assert found is K.MODEL_GONE, item["id"]
