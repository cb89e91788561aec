"""Names, indices and annotation masks of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from segbundle.errors import ConfigError, suggestion

IGNORE_INDEX = 255
"""Value of voxels of unknown class in loaded label maps, whatever value the dataset uses for them."""
_MAX_CHARACTERS = 255
"""Maximum length of a class name."""


class Classes:
    """Classes of a task. The index of a class is its value in loaded label maps; index 0 is the background.

    Args:
        names: one name per class, background first, for instance `["background", "liver", "spleen"]`.

    Raises:
        ConfigError: `names` has fewer than 2 or more than 255 entries, a name occurs twice, or a name has more than 255
            characters.

    Example:
        >>> classes = Classes(["background", "liver", "spleen"])
        >>> len(classes), classes.index("spleen")
        (3, 2)
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [str(name) for name in names]
        if len(self.names) < 2:
            raise ConfigError(
                f"class_names is {self.names}: it must contain the background and at least one foreground class, "
                "for instance [background, liver]."
            )
        if len(self.names) > IGNORE_INDEX:
            raise ConfigError(
                f"class_names has {len(self.names)} names; the maximum is {IGNORE_INDEX}, including the background. "
                "Use fewer classes."
            )
        long = next((name for name in self.names if len(name) > _MAX_CHARACTERS), None)
        if long is not None:
            raise ConfigError(
                f"class_names contains a name of {len(long):,} characters ({long[:20]}...); the maximum is "
                f"{_MAX_CHARACTERS}. Shorten it."
            )
        duplicates = sorted({name for name in self.names if self.names.count(name) > 1})
        if duplicates:
            raise ConfigError(f"class_names contains {duplicates[0]!r} twice; every class needs a different name.")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the index of a class, 0 for the background.

        Args:
            name: name of a class.

        Raises:
            ConfigError: the class does not exist; the message suggests the closest name.
        """
        if name not in self.names:
            raise ConfigError(f"unknown class {name!r}{suggestion(name, self.names)}")
        return self.names.index(name)

    def annotated_mask(self, annotated: Iterable[str] | None) -> list[bool]:
        """Return the annotation mask of a case: one bool per class, True if the class is annotated.

        Args:
            annotated: names of the annotated foreground classes; None if all classes are annotated. The background is
                always annotated, although background voxels may belong to unannotated classes.

        Raises:
            ConfigError: a class does not exist.
        """
        if annotated is None:
            return [True] * len(self)
        mask = [True] + [False] * (len(self) - 1)
        for name in annotated:
            mask[self.index(name)] = True
        return mask


def num_classes(class_names: Sequence[str]) -> int:
    """Return the number of output channels that a network needs for classes, including the background.

    Args:
        class_names: classes of the task, background first.

    Raises:
        ConfigError: the names are not valid (see `Classes`).

    Example:
        >>> num_classes(["background", "liver", "spleen"])
        3
    """
    return len(Classes(class_names))
