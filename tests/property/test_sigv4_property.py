"""`sigv4.sign` against botocore's own signer, for any request."""

from __future__ import annotations

from datetime import datetime
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm.upstream.sigv4 import sign

auth = pytest.importorskip("botocore.auth")
awsrequest = pytest.importorskip("botocore.awsrequest")
credentials = pytest.importorskip("botocore.credentials")

_SEGMENT = st.text("abcXYZ019-_.~:%+ @!$*()", max_size=12)
_URLS = st.builds(
    lambda scheme, host, port, path, query: f"{scheme}://{host}{port}{path}{query}",
    st.sampled_from(["http", "https"]),
    st.sampled_from(["bedrock-runtime.us-east-1.amazonaws.com", "127.0.0.1", "Example.COM", "[::1]"]),
    st.sampled_from(["", ":80", ":443", ":8080"]),
    st.lists(_SEGMENT, max_size=5).map(lambda parts: "/" + "/".join(parts) if parts else ""),
    st.one_of(st.just(""), st.text("ab=&%20-", min_size=1, max_size=20).map(lambda q: "?" + q)),
)
_NAMES = st.sampled_from(
    [
        "Content-Type",
        "Accept",
        "X-Amzn-Bedrock-Accept",
        "Host",
        "User-Agent",
        "Connection",
        "X-Custom",
        "Date",
        "X-Amz-Date",
        "Authorization",
    ]
)
_VALUES = st.text("abc 019-/;=,", max_size=30)


@settings(max_examples=500, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "post"]),
    url=_URLS,
    headers=st.dictionaries(_NAMES, _VALUES, max_size=6),
    body=st.binary(max_size=200),
    token=st.sampled_from(["", "session/token=="]),
    now=st.datetimes(min_value=datetime(2015, 1, 1), max_value=datetime(2045, 1, 1)),
)
def test_signs_what_botocore_signs(method, url, headers, body, token, now):
    request = awsrequest.AWSRequest(method=method, url=url, data=body, headers=dict(headers))
    signer = auth.SigV4Auth(credentials.Credentials("AKID", "secret", token or None), "bedrock", "eu-west-1")
    with mock.patch.object(auth, "get_current_datetime", lambda remove_tzinfo=True: now):
        signer.add_auth(request)
    ours = sign(
        method,
        url,
        headers,
        body,
        access_key="AKID",
        secret_key="secret",
        session_token=token,
        region="eu-west-1",
        service="bedrock",
        now=now,
    )
    for name, value in ours.items():
        assert request.headers[name] == value, name
