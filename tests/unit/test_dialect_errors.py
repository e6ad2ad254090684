"""Provider errors of every recorded form, in one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ccm.dialects.errors import error_inside, error_of


def read(status: int, body: Any, **headers: str) -> tuple[str, str, str]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = error_of(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)
    assert error.status == status
    return error.type, error.code, error.message


@pytest.mark.parametrize(
    ("status", "body", "type", "code", "message"),
    [
        (400, {"error": {"message": "Bad", "type": "invalid_request_error", "code": "unsupported_parameter"}}, "invalid_request_error", "unsupported_parameter", "Bad"),
        (429, {"error": {"message": "Quota", "type": "insufficient_quota", "code": "insufficient_quota"}}, "billing_error", "insufficient_quota", "Quota"),
        (400, {"error": {"message": "no m", "type": "invalid_request_error", "code": "model_not_found"}}, "not_found_error", "model_not_found", "no m"),
        (401, {"error": {"message": "Invalid", "type": "invalid_api_key", "code": 401}}, "authentication_error", "invalid_api_key", "Invalid"),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded_error", "overloaded_error", "Overloaded"),
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided"}, "authentication_error", "Client specified an invalid argument", "Incorrect API key provided"),
        (401, {"detail": "Invalid API Key"}, "authentication_error", "", "Invalid API Key"),
        (422, {"detail": [{"loc": ["body", "tools", 0], "msg": "Field required", "type": "missing"}]}, "invalid_request_error", "missing", "body.tools.0: Field required"),
        (400, {"object": "error", "message": "This model's maximum context length is 8 tokens", "type": "BadRequestError", "code": 400}, "invalid_request_error", "BadRequestError", "This model's maximum context length is 8 tokens"),
        (422, {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs"}]}, "type": "invalid_request_error"}, "invalid_request_error", "invalid_request_error", "body.x: Extra inputs"),
        (400, [{"error": {"code": 400, "message": "API key not valid", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}], "authentication_error", "API_KEY_INVALID", "API key not valid"),
        (503, {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}, "overloaded_error", "UNAVAILABLE", "busy"),
        (502, b"<html><head><title>502 Bad Gateway</title></head><body>x</body></html>", "api_error", "", "502 Bad Gateway"),
        (500, b"<html><body><h1>Oops</h1> it &amp; broke</body></html>", "api_error", "", "Oops it & broke"),
        (500, b"", "api_error", "", "500 Internal Server Error"),
        (418, b"teapot", "invalid_request_error", "", "teapot"),
        (400, {"error": {"message": "too big", "type": "exceed_context_size_error", "n_prompt_tokens": 11, "n_ctx": 10}}, "invalid_request_error", "exceed_context_size_error", "too big (11 tokens > 10 context size)"),
        (404, {"error": {"code": "DeploymentNotFound", "message": "no deployment"}}, "not_found_error", "DeploymentNotFound", "no deployment"),
        (400, b'data: {"error":{"message":"in a frame"}}\n\n', "invalid_request_error", "", "in a frame"),
    ],
)  # fmt: skip
def test_form(status: int, body: Any, type: str, code: str, message: str) -> None:
    assert read(status, body) == (type, code, message)


def test_bedrock_names_the_error_in_a_header() -> None:
    kind = "ThrottlingException:http://internal.amazon.com/"
    assert read(429, {"message": "slow down"}, X_Amzn_ErrorType=kind)[:2] == (
        "rate_limit_error",
        "ThrottlingException",
    )
    assert (
        read(403, {"message": "The security token included in the request is invalid"})[0]
        == "authentication_error"
    )
    assert read(400, {"message": "The provided model identifier is invalid."})[0] == "not_found_error"
    body = {"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "no"}
    assert read(400, body)[0] == "permission_error"


def test_what_openrouter_hides_in_metadata_is_said() -> None:
    raw = json.dumps({"error": {"message": "model is overloaded"}})
    meta = {"raw": raw, "provider_name": "G", "headers": {"X-RateLimit-Reset": "1741305600000"}}
    error = error_of(
        429,
        {},
        json.dumps({"error": {"code": 429, "message": "Provider returned error", "metadata": meta}}).encode(),
    )
    assert error.message == "Provider returned error: model is overloaded"
    assert error.headers["x-ratelimit-reset"] == "1741305600000"


def test_googles_wait_becomes_a_header() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}]
    body = json.dumps(
        {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "q", "details": details}}
    )
    assert error_of(429, {}, body.encode()).headers == {"retry-after-ms": "34400"}
    assert error_of(429, {"Retry-After": "3"}, body.encode()).headers == {"retry-after": "3"}


@pytest.mark.parametrize(
    "key",
    ["sk-proj-abcd1234efgh5678", "sk-ant-api03-AbC_dEf-123456", "gsk_abcdefgh12345678", "AIzaSyA1234567890abcdef", "sk-ab***************wxyz", "****3f2b", "AKIAIOSFODNN7EXAMPLE"],
)  # fmt: skip
def test_keys_never_come_out(key: str) -> None:
    error = error_of(
        401, {}, json.dumps({"error": {"message": f"Incorrect API key provided: {key}."}}).encode()
    )
    assert key not in error.message and key.encode() not in error.body
    assert error.message == "Incorrect API key provided: [key]."
    assert json.loads(error.body)


def test_an_error_inside_a_200_has_the_status_it_would_have_had() -> None:
    assert error_inside({"error": {"code": 502, "message": "x"}}).status == 502
    assert error_inside({"error": {"type": "overloaded_error", "message": "x"}}).status == 529
    failed = {
        "error": {"code": "tool_use_failed", "message": "x", "failed_generation": "y", "status_code": 400}
    }
    assert (error_inside(failed).status, error_inside(failed).code) == (400, "tool_use_failed")
    nothing = error_inside({"error": {}})
    assert (nothing.status, nothing.type) == (500, "api_error") and nothing.message
