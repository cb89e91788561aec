"""Find left and right classes, and the axes along which mirroring exchanges them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from segbundle.errors import ConfigError

_logger = logging.getLogger(__name__)
_LANGUAGES = (
    ("l|lt|lft|lh|left", "r|rt|rgt|rh|right"),  # English
    ("os|oi|og", "od"),  # eyes
    ("link(s|e[rnms]?)|li|lks?", "recht(s|e[rnms]?)|re"),  # German, Dutch
    ("gauches?|gche?", "droite?s?|dte?"),  # French
    ("izq|izquierd[oa]s?|izq?d[oa]s?|esquerr[ea]", "der|derech[oa]s?|dr?ch[oa]s?|drch|dret[ao]?"),  # Spanish, Catalan
    ("esq|esquerd[oa]s?", "dir|dto|dta|direit[oa]s?"),  # Portuguese
    ("sin|sn|sx|sinist(er|r[a-z]*)?", "dex|dx|dext(er|r[a-z]*)?|destr[oaie]|dest"),  # Latin, Italian
    ("stang(a|ul|i|ii)?", "drept|dreapta|drepte|dreptul"),  # Romanian
    ("vanst(er|ra|ert)|venstre|vstr?", "hog(er|ra|ert)|h(ø|o|oe)[jy](re|er)|hger"),  # Swedish, Danish, Norwegian
    ("vas|vasen|vasem[a-z]+|vasak[a-z]*", "oik|oikea[a-z]*|oikeis[a-z]+|parem[a-z]*"),  # Finnish, Estonian
    ("(li?je|le|la)v(a|e|eho|ej|em|emu|i|o|og|om|ou|u|y|ych|ym|ymi)|lew(a|e|ego|ej|y|ych|ym)",
     "pra[vw](a|e|eho|ego|ej|em|emu|i|o|ou|u|y|ych|ym|ymi)|desn(a|e|i|o|og|om|u)"),  # Czech, Polish, Croatian
    ("л|л(е|и|і|ије)в[а-яіє]{0,3}", "п|пр|прав[а-яіє]{0,3}|десн[а-я]{1,3}"),  # Russian, Ukrainian, Serbian
    ("kair[a-z]+|kreis[a-z]+", "desin[a-z]+|lab(a|as|ais|o)"),  # Lithuanian, Latvian
    ("αρ|αριστερ[α-ω]+", "δε|δεξ[α-ω]+"),  # Greek
    ("bal", "jobb"),  # Hungarian
    ("sol", "sag"),  # Turkish
    ("(ال)?(يسر[ىيا]|ايسر|يسار)|چپ", "(ال)?(يمن[ىيا]|ايمن|يمين)|راست"),  # Arabic, Persian
    ("שמאל[א-ת]{0,2}", "ימין|ימני[א-ת]{0,2}"),  # Hebrew
    ("kiri|trai", "kanan|phai"),  # Indonesian, Vietnamese
    ("左[侧側]?|왼쪽", "右[侧側]?|오른쪽"),  # Chinese, Japanese, Korean
)  # fmt: skip
"""Words for left and right, in small letters and without diacritics, by language: a pair is of one language."""
_LAST_LETTERS = (("g", "d"), ("v", "h"), ("i", "d"))
"""French, Danish and Swedish, and Spanish, for the last word of a name: left and right."""
_COMPOUNDS = (
    ("left", "right"), ("linker", "rechter"), ("linke", "rechte"), ("links", "rechts"), ("vanster", "hoger"),
    ("venstre", "højre"), ("venstre", "høyre"),
)  # fmt: skip
"""Left and right at an end of a longer word, as in `kidneyleft` and `linkerlong`."""
_LEAST_REST = 3
_GLUED = re.compile(r"(l|r)(.+)"), re.compile(r"(.+?)(l|r)")
"""A side and a rest without anything between them, as in `RV`."""
_SIDES = [(re.compile(left), re.compile(right)) for left, right in _LANGUAGES]
_FILLERS = ("side", "sided")
_WORD = re.compile(r"[左右][侧側]?|왼쪽|오른쪽|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^\W\d_左右A-Z]+|[A-Z]+|\d+")
_SPACES = re.compile(r"[\W_]+")
_PLURAL = re.compile(r"(?<=[a-z]{3})(?<!s)s$")
_DIACRITICS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u0655]")
_END_NUMBERS = re.compile(r"^[\W_]*\d+[\W_]+|[\W_]+\d+[\W_]*$")
"""Numbers that may only count the classes, as in `2_kidney_left` and `3_kidney_right`."""
_SHORT_WORD = re.compile(r"[^\W\d_]{1,2}")
_NO_SIDES = {
    "ca", "cb", "cc", "ce", "cm", "co", "cp", "cs", "ct", "cz", "de", "di", "du", "ed", "ee", "el", "en", "es",
    "et", "ex", "fa", "fl", "gd", "gm", "gp", "he", "hg", "hi", "hs", "ic", "in", "la", "lc", "le", "lg", "lo",
    "lv", "mr", "mt", "nc", "ne", "no", "of", "on", "pd", "pe", "pt", "pz", "sd", "se", "st", "su", "sw", "tc",
    "te", "tz", "un", "up", "us", "va", "vd", "vi", "wm", "wt",
}  # fmt: skip
"""Words of two letters for tissues, sequences, phases and zones, and articles."""
_OPPOSITES = {"ap", "cd", "cl", "cs", "ct", "dv", "ei", "io", "is", "iu", "lm", "ls", "lt", "lu", "nt", "dp"}
"""Pairs of letters (in alphabetical order) for other opposites than left and right, such as anterior and posterior."""
_DEFAULT_FLIPS = (0,)
_SHOWN = 3


def side_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of classes whose names differ only by side.

    Args:
        class_names: names in various languages and spellings: `left_kidney`, `kidney_left`, `Lung-R`, `LKidney`,
            `ctx-lh-insula`, ... Names with equal numbers at their ends are paired first. The other names are then
            paired without the numbers at their ends.

    Example:
        >>> side_pairs(["background", "left kidney", "right kidney", "spleen"])
        [('left kidney', 'right kidney')]
    """
    class_names = [str(name) for name in class_names]  # YAML reads some names as numbers
    pairs: list[tuple[int, int]] = []
    for numbered in (True, False):
        paired = {index for pair in pairs for index in pair}
        plain = {i: _plain(name, numbered) for i, name in enumerate(class_names) if i not in paired}
        lettered = Counter(tuple(words[:-1]) for words in map(_words, plain.values()) if words and len(words[-1]) == 1)
        readings = {i: _readings(name, lettered) for i, name in plain.items()}
        pairs += [
            (one, other)
            for one, other in combinations(readings, 2)
            if any((language, -side, rest) in readings[other] for language, side, rest in readings[one])
        ]
    return [(class_names[one], class_names[other]) for one, other in sorted(pairs)]


def _plain(name: str, numbered: bool) -> str:
    """Return a name without diacritics and, unless it is `numbered`, without numbers at its ends."""
    name = unicodedata.normalize("NFKC", _DIACRITICS.sub("", unicodedata.normalize("NFKD", name)))
    return name if numbered else _END_NUMBERS.sub("", name)


def _words(plain: str) -> list[str]:
    """Return the words of a name in small letters, in the singular."""
    words = [word.lower() for word in _WORD.findall(plain.lower() if plain.isupper() else plain)]
    return [word if _sides(word) else _PLURAL.sub("", word) for word in words if word not in _FILLERS]


@lru_cache(maxsize=10_000)
def _sides(word: str) -> list[tuple[int, int]]:
    """Return the languages in which a word is a side, each with -1 for left and 1 for right."""
    return [
        (language, side)
        for language, patterns in enumerate(_SIDES)
        for side, pattern in zip((-1, 1), patterns, strict=True)
        if pattern.fullmatch(word)
    ]


def _readings(plain: str, lettered: Mapping[tuple[str, ...], int]) -> set[tuple[int, int, str]]:
    """Return every way to read a name as a language, a side and a rest.

    Args:
        plain: see `_plain`.
        lettered: number of names that end in a single letter, by the words before it. Only pairs can be sides.
    """
    words = _words(plain)
    found = set()
    for place, word in enumerate(words):
        before, after = words[:place], words[place + 1 :]
        rest = " ".join(sorted(before + after))
        found |= {(language, side, rest) for language, side in _sides(word)}
        found |= {
            (language, side, " ".join(sorted([*before, part, *after]))) for language, side, part in _compound(word)
        }
        if before and not after and lettered.get(tuple(before)) == 2:
            found |= {(-2 - i, 2 * pair.index(word) - 1, rest) for i, pair in enumerate(_LAST_LETTERS) if word in pair}
    return found or _glued(plain.lower())


def _compound(word: str) -> Iterator[tuple[int, int, str]]:
    """Yield every way to read a word as a language, a side and the other part of the word."""
    for language, pair in enumerate(_COMPOUNDS, start=len(_LANGUAGES)):
        for side, name in zip((-1, 1), pair, strict=True):
            if len(word) - len(name) >= _LEAST_REST:
                if word.startswith(name):
                    yield language, side, word[len(name) :]
                if word.endswith(name):
                    yield language, side, word[: -len(name)]


def _glued(name: str) -> set[tuple[int, int, str]]:
    first, last = (pattern.fullmatch(name) for pattern in _GLUED)
    return {
        *([(-1, 1 if first[1] == "r" else -1, first[2])] if first else []),
        *([(-1, 1 if last[2] == "r" else -1, last[1])] if last else []),
    }


def possible_pairs(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of classes that may be left and right, although their names have no known word for a side.

    Two names form a pair if they differ in a single word of one or two letters, and no third name differs from the pair
    in the same word. Words with another known meaning are excluded.

    Args:
        class_names: see `side_pairs`.

    Example:
        >>> possible_pairs(["background", "nerka L", "nerka P", "lesion A", "lesion B"])
        [('nerka L', 'nerka P')]
    """
    class_names = [str(name) for name in class_names]
    known = {name for pair in side_pairs(class_names) for name in pair}
    groups: defaultdict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in class_names:
        words = _SPACES.split(_plain(name, numbered=True).lower())
        for place, word in enumerate(words):
            if len(words) > 1 and _SHORT_WORD.fullmatch(word):
                others = (*words[:place], "", *words[place + 1 :])
                groups[others][word] = name
    pairs = [(tuple(names.values()), sorted(names)) for names in groups.values() if len(names) == 2]
    return [
        (first, second) for (first, second), words in pairs if not known & {first, second} and _may_be_sides(*words)
    ]


def _may_be_sides(one: str, other: str) -> bool:
    """Return whether two short words, in alphabetical order, may be left and right."""
    if len(one) != len(other) or {one, other} & _NO_SIDES or one + other in _OPPOSITES:
        return False
    return len(one) == 2 or (ord(other) - ord(one) > 1 and not {one, other} <= set("ivx"))


def exchanging_axes(class_names: Sequence[str], axcodes: str | Sequence[str] | None) -> set[int]:
    """Return the axes along which mirroring exchanges classes that differ only by side.

    Args:
        class_names: see `side_pairs`.
        axcodes: orientation of the network's grid, such as `RAS`; None if the network uses the orientation of each
            scan, where any axis may be left-right.

    Returns:
        spatial axes, from 0 to 2; empty if no classes differ only by side

    Example:
        >>> exchanging_axes(["background", "left kidney", "right kidney"], "RAS")
        {0}
    """
    return _side_axes(axcodes) if side_pairs(class_names) else set()


def chosen_flips(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None
) -> list[int]:
    """Return the spatial axes along which training mirrors images.

    Args:
        flip_axes: list of axes from 0 to 2, which is returned unchanged; or `auto` for axis 0, unless mirroring along
            axis 0 exchanges classes.
        class_names: see `side_pairs`.
        axcodes: see `exchanging_axes`.

    Raises:
        ConfigError: `flip_axes` is neither `auto` nor a list of axes.

    Example:
        >>> chosen_flips("auto", ["background", "left kidney", "right kidney"], "RAS")
        []
        >>> chosen_flips("auto", ["background", "liver"], "RAS")
        [0]
    """
    if isinstance(flip_axes, (list, tuple)) and all(axis in (0, 1, 2) for axis in flip_axes):
        return list(flip_axes)
    if flip_axes != "auto":
        raise ConfigError(f"augmentation: flip_axes is {flip_axes!r}; it must be auto or a list of axes (0, 1 or 2).")
    return sorted(set(_DEFAULT_FLIPS) - exchanging_axes(class_names, axcodes))


def warn_about_sides(
    flip_axes: Sequence[int] | str, class_names: Sequence[str], axcodes: str | Sequence[str] | None, key: str
) -> None:
    """Log a warning if mirroring exchanges classes that differ only by side, or is disabled for this reason.

    Another warning names classes that mirroring may exchange, see `possible_pairs`.

    Args:
        flip_axes: see `chosen_flips`.
        class_names: see `side_pairs`.
        axcodes: see `exchanging_axes`.
        key: config key of `flip_axes`, for the messages.

    Raises:
        ConfigError: see `chosen_flips`.

    Example:
        >>> warn_about_sides([1], ["background", "left kidney", "right kidney"], "RAS", "augmentation#flip_axes")
    """
    flips = chosen_flips(flip_axes, class_names, axcodes)
    exchanging = exchanging_axes(class_names, axcodes)
    shown = _shown(side_pairs(class_names))
    if flip_axes == "auto":
        left_out = sorted(exchanging.intersection(_DEFAULT_FLIPS))
        if left_out:
            _logger.warning(
                "%s: images are not mirrored along axis %d, to avoid exchanging %s", key, left_out[0], shown
            )
    elif exchanging.intersection(flip_axes):
        _logger.warning(
            "%s %s: mirroring exchanges classes that differ only by side (%s), so the network cannot distinguish them; "
            "remove axis %s",
            key,
            list(flip_axes),
            shown,
            ", ".join(map(str, sorted(exchanging.intersection(flip_axes)))),
        )
    mirrored = _side_axes(axcodes).intersection(flips)
    possible = possible_pairs(class_names) if mirrored else []
    if possible:
        _logger.warning(
            "class_names: %s differ in one short word, which may mean left and right. If it does, mirroring along axis "
            "%s exchanges these classes: set %s to %s",
            _shown(possible),
            ", ".join(map(str, sorted(mirrored))),
            key,
            [axis for axis in flips if axis not in mirrored],
        )


def _side_axes(axcodes: str | Sequence[str] | None) -> set[int]:
    """Return the axes that may be left-right."""
    return {0, 1, 2} if axcodes is None else {axis for axis, code in enumerate(axcodes) if code.upper() in "LR"}


def _shown(pairs: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    return ", ".join(f"{left} / {right}" for left, right in pairs[:_SHOWN]) + more
