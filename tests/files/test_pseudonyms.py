"""Pseudonyms with a salt in the output folder."""

import pytest

from segbundle.errors import OutputError
from segbundle.files.pseudonyms import PSEUDONYM, SALT, Pseudonyms


def test_salt_of_a_folder_gives_the_same_names(tmp_path):
    names = [Pseudonyms(tmp_path / folder).of("/data/ct.nii") for folder in ("a", "a", "b")]
    assert names[0] == names[1] != names[2] and all(map(PSEUDONYM.fullmatch, names))
    assert (tmp_path / "a" / SALT).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"short", b"x" * 33])
def test_damaged_salt_is_an_error(tmp_path, content):
    (tmp_path / SALT).write_bytes(content)
    with pytest.raises(OutputError, match="is damaged; the salt of pseudonyms has"):
        Pseudonyms(tmp_path)


def test_linked_salt_is_an_error(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 32)
    (tmp_path / SALT).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be read or written"):
        Pseudonyms(tmp_path)
