"""Griffe extension that renders the section "Example:" of a docstring in the same way as "Examples:"."""

from __future__ import annotations

import re
from typing import Any

import griffe

_TITLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class ExamplesSection(griffe.Extension):
    """Rename the section, because Griffe parses prompts (`>>>`) only in a section with the title of Google's guide."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section in the docstring of an object.

        Args:
            obj: module, class, function or attribute.
            kwargs: other arguments of Griffe's event.
        """
        if obj.docstring is not None:
            obj.docstring.value = _TITLE.sub(r"\1Examples:", obj.docstring.value)
