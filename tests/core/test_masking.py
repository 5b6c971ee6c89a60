"""Secrets in any text are masked, and other text is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from streaming.core.masking import mask_text, remember_secrets

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCY"


@pytest.mark.parametrize(
    "text",
    [
        f"at https://bob:{SECRET}@host/x failed",
        f"at https://host/x?part=1&X-Amz-Signature={SECRET}&n=2",
        f"redirect=https%3A%2F%2Fhost%2F%3FX-Amz-Signature%3D{SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: AWS4-HMAC-SHA256 Credential={SECRET}/x/s3, SignedHeaders=host, Signature={SECRET}",
        f"x-amz-security-token: {SECRET}\nHost: h",
        f"Cookie: a={SECRET}; b={SECRET}",
        f"Set-Cookie: a={SECRET}; Path=/",
        f"X-Goog-Api-Key: {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}', 'Host': 'h'}}",
        f"<CIMultiDict('Cookie': 'a={SECRET}; b={SECRET}')>",
        f"[(b'authorization', b'Basic {SECRET}')]",
        f'{{"token": "{SECRET}"}}',
        f'{{"client_secret":"{SECRET}"}}',
        f'inside: "{{\\"refresh_token\\": \\"{SECRET}\\"}}"',
        f"{{'password': 'it\\'s {SECRET}'}}",
        f"S3Settings(secret_access_key='{SECRET}', session_token={SECRET})",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"SecretAccessKey: {SECRET}",
        f"password = {SECRET}",
        f"the login Bearer {SECRET} was refused",
        f"<Error><Code>ExpiredToken</Code><Token-0>{SECRET}</Token-0></Error>",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"got eyJhbGciOiJIUzI1NiJ9.eyJzdWIi{SECRET}.{SECRET} back",
        f"with hf_{SECRET}abc",
    ],
)
def test_a_secret_is_masked_by_its_name_or_shape(text: str) -> None:
    """Whatever stands around it, in a URL, a header, a dict, JSON, XML or an assignment; twice is like once."""
    masked = mask_text(text)
    assert SECRET not in masked
    assert "***" in masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "read_failed source=s3 path=a/b.pt attempts=3",
        "cache_prefetch_failed key=12 error=x",
        "max_tokens=512 and 3 tokens: fine, authors=2, design=x, monkey: b",
        "open /a@b/c?d=e: http://h/x@y?page=2#z",
        "so it wants a login; set credentials token, or username and password",
        "Basic authentication is not for a bearer of news",
        "<Key>a/b.pt</Key><Code>NoSuchKey</Code>",
        "the sum of 1.2.3 is eyJ",
    ],
)
def test_plain_text_is_left_alone(text: str) -> None:
    """Keys of samples, counts of tokens and talk about logins are not secrets."""
    assert mask_text(text) == text


def test_the_rest_of_the_text_stays() -> None:
    """Only the value goes: its name, and what follows, are needed to understand an error."""
    assert mask_text(f"a token={SECRET}, then b") == "a token=***, then b"
    assert mask_text(f"{{'token': '{SECRET}', 'region': 'eu'}}") == "{'token': ***, 'region': 'eu'}"
    assert mask_text(f"Cookie: a={SECRET}; b=1\nHost: h") == "Cookie: ***\nHost: h"


def test_a_remembered_secret_is_masked_anywhere() -> None:
    """Secrets under a secret's name, typed as one, or in a URL; also in the quoting of URLs."""
    remember_secrets(
        {
            "credentials": {"username": "planted user", "deep": ["planted/list"]},
            "any": SecretStr("planted-typed"),
            "proxies": ["http://u:planted%2Fpassword@proxy/", "http://[broken"],
            "root": "https://host/x?sig=planted%2Bsig&page=plain-page",
            "region": "plain-region",
        }
    )
    listed = "planted user, planted%20user, planted/list, planted-typed, planted/password, planted+sig, planted%2Bsig"
    assert mask_text(f"<{listed}>") == f"<{', '.join(['***'] * 7)}>"
    assert mask_text("plain-page of plain-region") == "plain-page of plain-region"


def test_a_short_secret_does_not_blot_out_words() -> None:
    """A value that may be part of any word is masked by its name alone."""
    remember_secrets({"token": "abc"})
    assert mask_text("abcdef token=abc") == "abcdef token=***"


def test_the_latest_secrets_are_remembered() -> None:
    """Logins that are renewed without end do not fill the memory; the latest are the ones in use."""
    remember_secrets({"token": "planted-oldest"})
    for number in range(0, 5000, 100):
        remember_secrets({f"token{each}": f"planted-{each:06}" for each in range(number, number + 100)})
    assert mask_text("planted-oldest planted-004999 planted-001500") == "planted-oldest *** ***"


PIECES = st.lists(
    st.sampled_from(
        "token secret password sig= cookie: x- key = : %3D ' \" \\ { } < > ? & - . :// @ ab1 (b' eyJ Bearer ,".split()
    )
    | st.sampled_from([" ", "\n", "', '", "-----BEGIN PRIVATE KEY-----"]),
    max_size=12,
).map("".join)
FORMS = st.sampled_from(
    [
        f" token={SECRET}",
        f" 'token': '{SECRET}'",
        f'{{"password": "{SECRET}"}}',
        f" https://h/?sig={SECRET}&",
        f" https://u:{SECRET}@h/",
        f"\nAuthorization: Bearer {SECRET}\n",
    ]
)


@given(PIECES, FORMS, PIECES)
def test_nothing_around_a_secret_uncovers_it(before: str, secret: str, after: str) -> None:
    """Other names, half open quotation marks and parts of other forms do not get around the mask."""
    assert SECRET not in mask_text(before + secret + after)


@given(st.text("tokensecrpawdilguhx-yMEN_ \u017f\u212a=:'<>0", max_size=60))
def test_what_is_looked_for_first_hides_nothing(text: str) -> None:
    """The quick look for words that all secrets' names hold lets every text pass that the expressions change."""
    looked_at = f"token; {mask_text(text)}"
    assert mask_text(f"token; {text}") == looked_at


def test_masking_takes_time_in_proportion_to_the_text() -> None:
    """Long words, quotation marks without end and rows of names are not slow: a megabyte of each is masked in time."""
    for unit in (
        "a",
        "token",
        "'",
        "token='",
        'token="\\',
        "://",
        "x-",
        "-----BEGIN ",
        "eyJ",
        "(b'",
        "?sig",
        "Bearer ",
    ):
        text = unit * (200_000 // len(unit))
        assert len(mask_text(text)) <= len(text) + 600_000
