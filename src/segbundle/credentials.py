"""Removal of passwords and tokens of URLs from messages and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

_HIDDEN = "***"
_WORD = re.compile(r"[^\s'\"<>]+")
_QUERY = re.compile(r"[?#]")
_SHORTEST = 3
"""Minimum length of secrets that are also replaced outside their URL."""


def without_credentials(value: Any) -> Any:
    """Return a value in which possible secrets in URLs are replaced by `***`.

    Possible secrets are the user name, the password, and everything after `?` or `#`, as in
    `http://user:password@host/path?token=abc`.

    Args:
        value: string, or nested mappings, lists and tuples of strings. A tuple becomes a list; other values are
            returned unchanged.

    Example:
        >>> without_credentials("http://me:secret@host:5000/mlflow?token=abc cannot be used")
        'http://***@host:5000/mlflow?*** cannot be used'
        >>> without_credentials({"mlflow_uri": "http://me:my secret@host"})
        {'mlflow_uri': 'http://***@host'}
    """
    if isinstance(value, str):
        return _redact_text(value)
    if isinstance(value, Mapping):
        return {
            key: _redact_value(each) if isinstance(each, str) else without_credentials(each)
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redact_value(each) if isinstance(each, str) else without_credentials(each) for each in value]
    return value


def hide(text: str, address: str) -> str:
    """Return a text in which the secrets of a given URL are replaced by `***`, wherever they occur.

    The secrets are the password and the query values of the URL, also in other encodings. Outside the URL, the user
    name and secrets of fewer than three characters are not replaced.

    Args:
        text: text that may contain the secrets, such as an error message.
        address: URL with credentials; its scheme may be missing.

    Example:
        >>> hide("no user secret at host", "http://me:secret@host")
        'no user *** at host'
        >>> hide("me:secret@host: no such scheme", "me:secret@host")
        'me:***@host: no such scheme'
    """
    text = text.replace(address, _redact_value(address))
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _redact_text(text)


def _redact_text(text: str) -> str:
    if "://" not in text:
        return text
    return _WORD.sub(lambda found: _without_in_word(found[0]), text)


def _without_in_word(word: str) -> str:
    """Return a word without secrets, in time that grows with its length only."""
    scheme, separator, rest = word.partition("://")
    if not separator:
        return word
    user, at, place = rest.rpartition("@")
    query = _QUERY.search(place)
    if query and query.end() < len(place):
        place = f"{place[: query.end()]}{_HIDDEN}"
    return f"{scheme}://{_HIDDEN if at else user}{at}{place}"


def _redact_value(value: str) -> str:
    """Return a value without secrets. A URL is redacted up to the last `@`: passwords may have any character."""
    before, separator, rest = value.partition("://")
    if not separator:
        return value
    _, at, place = rest.rpartition("@")
    return _redact_text(f"{before}://{_HIDDEN}@{place}") if at else _redact_text(value)


def _secrets(address: str) -> set[str]:
    """Return the password and the query values of a URL, as written and in other encodings."""
    rest = address.partition("://")[2] or address  # the scheme may be missing
    user, _, _ = rest.rpartition("@")
    _, _, options = rest.rpartition("@")[2].partition("?")
    found = {user.partition(":")[2], options.partition("#")[2]}
    found |= {value for _, value in parse_qsl(options.partition("#")[0])}
    plain = {form(secret) for secret in found for form in (str, unquote, unquote_plus)}
    forms = {form(secret) for secret in plain for form in (str, quote, quote_plus)}
    return {secret for secret in forms if len(secret) >= _SHORTEST}
