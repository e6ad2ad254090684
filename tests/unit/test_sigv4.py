"""AWS's own published example, and what must and must not be signed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ccm.upstream.sigv4 import sign

NOW = datetime(2015, 8, 30, 12, 36, tzinfo=timezone.utc)
KEYS = {
    "access_key": "AKIDEXAMPLE",
    "secret_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "region": "us-east-1",
}


def _signed(**kinds):
    given = {
        "method": "POST",
        "url": "https://h.amazonaws.com/model/a%3A0/invoke",
        "headers": {},
        "body": b"{}",
    }
    given.update(kinds)
    return sign(**given, **KEYS, service="bedrock", now=NOW)


def test_the_published_example():
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08"
    got = sign("GET", url, headers, b"", **KEYS, service="iam", now=NOW)
    assert got["X-Amz-Date"] == "20150830T123600Z"
    assert got["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_an_encoded_colon_is_not_a_raw_one():
    assert _signed() != _signed(url="https://h.amazonaws.com/model/a:0/invoke")


def test_the_token_is_signed_and_returned():
    got = _signed(session_token="T")
    assert got["X-Amz-Security-Token"] == "T"
    assert "x-amz-security-token" in got["Authorization"]


def test_headers_of_the_transport_are_not_signed():
    plain = _signed()
    assert _signed(headers={"User-Agent": "x", "Connection": "close", "authorization": "Bearer y"}) == plain
    assert _signed(headers={"Accept": "a"}) != plain


def test_the_body_is_signed():
    assert _signed(body=b"{} ") != _signed()


def test_any_time_zone_gives_utc():
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    args = ("GET", "https://h/", {}, b"")
    assert sign(*args, **KEYS, service="s", now=there) == sign(*args, **KEYS, service="s", now=NOW)
