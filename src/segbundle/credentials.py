"""Keep passwords and tokens in addresses out of messages and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

_HIDDEN = "***"
_WORD = re.compile(r"[^\s'\"<>]+")
_QUERY = re.compile(r"[?#]")
_SHORTEST = 3
"""Letters of a secret that is looked for outside of its address."""


def without_credentials(value: Any) -> Any:
    """Return a text, or values that hold texts, with what may be secret in addresses replaced by `***`.

    Secret are user and password, and what follows `?` or `#`, as in `http://user:password@host/path?token=abc`.

    Example:
        >>> without_credentials("http://me:secret@host:5000/mlflow?token=abc cannot be used")
        'http://***@host:5000/mlflow?*** cannot be used'
        >>> without_credentials({"mlflow_uri": "http://me:my secret@host"})
        {'mlflow_uri': 'http://***@host'}
    """
    if isinstance(value, str):
        return _without(value)
    if isinstance(value, Mapping):
        return {
            key: _whole(each) if isinstance(each, str) else without_credentials(each) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_whole(each) if isinstance(each, str) else without_credentials(each) for each in value]
    return value


def hide(text: str, address: str) -> str:
    """Return a text without the secrets of an address, wherever they stand in it.

    Example:
        >>> hide("no user secret at host", "http://me:secret@host")
        'no user *** at host'
        >>> hide("me:secret@host: no such scheme", "me:secret@host")
        'me:***@host: no such scheme'
    """
    text = text.replace(address, _whole(address))
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _without(text)


def _without(text: str) -> str:
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


def _whole(word: str) -> str:
    """Return a text without secrets which, if it holds an address, is nothing else: a password may have any letter."""
    before, separator, rest = word.partition("://")
    if not separator:
        return word
    _, at, place = rest.rpartition("@")
    return _without(f"{before}://{_HIDDEN}@{place}") if at else _without(word)


def _secrets(address: str) -> set[str]:
    """Return password and values of an address, as they are written, and as others write them."""
    rest = address.partition("://")[2] or address  # perhaps without its scheme
    user, _, _ = rest.rpartition("@")
    _, _, options = rest.rpartition("@")[2].partition("?")
    found = {user.partition(":")[2], options.partition("#")[2]}
    found |= {value for _, value in parse_qsl(options.partition("#")[0])}
    plain = {form(one) for one in found for form in (str, unquote, unquote_plus)}
    forms = {form(one) for one in plain for form in (str, quote, quote_plus)}
    return {one for one in forms if len(one) >= _SHORTEST}
