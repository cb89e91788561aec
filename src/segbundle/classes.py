"""Names, indices and annotation state of the classes: the one place that knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segbundle.errors import ConfigError, suggestion

IGNORE_INDEX = 255
"""The value in loaded label maps of voxels whose class is unknown, whatever number the dataset has for them."""
_MAX_CHARACTERS = 255
"""Of a class name."""


class Classes:
    """The classes of a task. The index of a class is its value in the label maps; index 0 is the background.

    Args:
        names: one name per class, `names[0]` being the background, for instance
            `["background", "liver", "spleen"]`.

    Raises:
        ConfigError: fewer than two names, more than 255, a name of more than 255 characters, or one that appears twice.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [str(name) for name in names]
        if len(self.names) < 2:
            raise ConfigError(
                f"class_names is {self.names}: it needs the background and at least one class, "
                "for instance [background, liver]."
            )
        if len(self.names) > IGNORE_INDEX:
            raise ConfigError(f"class_names holds {len(self.names)} names; there can be {IGNORE_INDEX} at most.")
        long = next((name for name in self.names if len(name) > _MAX_CHARACTERS), None)
        if long is not None:
            raise ConfigError(
                f"class_names contains a name of {len(long):,} characters ({long[:20]}...); at most "
                f"{_MAX_CHARACTERS} are possible."
            )
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ConfigError(f"class_names holds {twice[0]!r} twice: every class needs a name of its own.")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The label value of a class.

        Raises:
            ConfigError: no class has that name; the message suggests the nearest.
        """
        if name not in self.names:
            raise ConfigError(f"there is no class {name!r}{suggestion(name, self.names)}")
        return self.names.index(name)

    def annotated_mask(self, annotated: Iterable[str] | None) -> list[bool]:
        """Which classes somebody looked for in a case, as one bool per class.

        Args:
            annotated: names of the annotated foreground classes, or None where all of them were. The background
                needs no mention: it counts as annotated in every case, although it may then hide a class that
                was not.

        Raises:
            ConfigError: a name that is not a class.
        """
        if annotated is None:
            return [True] * len(self)
        mask = [True] + [False] * (len(self) - 1)
        for name in annotated:
            mask[self.index(name)] = True
        return mask


def num_classes(class_names: Sequence[str]) -> int:
    """How many channels a network needs for these classes, the background included."""
    return len(Classes(class_names))
