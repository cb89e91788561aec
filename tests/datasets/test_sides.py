"""Left and right classes in various spellings, and mirroring without exchanging them."""

import pytest

from segbundle.datasets.sides import chosen_flips, side_pairs, warn_about_sides
from segbundle.errors import ConfigError

KIDNEYS = ["background", "left kidney", "right kidney"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"), ("kidney_left", "kidney_right"), ("kidney_left", "right_kidney"),
        ("L hippocampus", "R hippocampus"), ("lung-L", "lung-R"), ("femur_l", "femur_r"), ("LKidney", "RKidney"),
        ("KidneyLeft", "KidneyRight"), ("leftkidney", "rightkidney"), ("LV", "RV"), ("ctx-lh-insula", "ctx-rh-insula"),
        ("Kidney (L)", "Kidney (R)"), ("rib_left_1", "rib_right_1"), ("NIERE LINKS", "NIERE RECHTS"),
        ("rein gauche", "rein droit"), ("左肾", "右肾"), ("left", "right"), ("Lt. lobe", "Rt. lobe"),
        ("2_kidney_left", "3_kidney_right"), ("kidney_left_1", "kidney_right_2"), ("left kidneys", "right kidney"),
        ("kidney left", "kidney right side"), ("left-sided kidney", "right-sided kidney"), ("ren sin", "ren dex"),
        ("ren_sin", "ren_dext"), ("kidney_sn", "kidney_dx"), ("rene sx", "rene dx"), ("riñón izq", "riñón der"),
        ("linken Niere", "rechten Niere"), ("Ｌ腎", "Ｒ腎"), ("rim esquerdo", "rim direito"),
        ("левая почка", "правая почка"), ("ЛЕВЫЙ", "ПРАВЫЙ"), ("vänster njure", "höger njure"),
        ("VÄNSTER NJURE", "HÖGER NJURE"), ("venstre", "højre"), ("venstre nyre", "høyre nyre"),
        ("lewa nerka", "prawa nerka"), ("sol böbrek", "sağ böbrek"), ("왼쪽 신장", "오른쪽신장"),
        ("linker nier", "rechter nier"),
    ],
)  # fmt: skip
def test_pairs(left, right):
    assert side_pairs(["background", right, "spleen", left]) == [(right, left)]


@pytest.mark.parametrize(
    "names",
    [
        ["background", "liver", "spleen", "lung", "rectum"],
        ["background", "left kidney", "right lung"],
        ["background", "vertebrae_L1", "vertebrae_T1", "sacrum"],
        ["background", "anterior", "posterior"],
        ["background", "", "l"],
        ["background", "abscess_left", "absces_right"],
        ["background", "1", "2"],
    ],
)
def test_other_names_do_not_pair(names):
    assert side_pairs(names) == []


def test_equal_numbers_pair():
    ribs = ["rib_left_1", "rib_left_2", "rib_right_1", "rib_right_2", "4_lung_left", "5_lung_right"]
    pairs = [("rib_left_1", "rib_right_1"), ("rib_left_2", "rib_right_2"), ("4_lung_left", "5_lung_right")]
    assert side_pairs(ribs) == pairs


def test_chosen_flips():
    assert chosen_flips("auto", ["background", "liver"], "RAS") == [0]
    assert chosen_flips("auto", KIDNEYS, "RAS") == chosen_flips("auto", KIDNEYS, "LPS") == []
    assert chosen_flips("auto", KIDNEYS, ("S", "A", "R")) == [0]
    assert chosen_flips("auto", KIDNEYS, None) == []
    assert chosen_flips([0, 1], KIDNEYS, "RAS") == [0, 1]


@pytest.mark.parametrize("wrong", ["none", 0, [3], ["0"], {"0": 1}])
def test_invalid_flip_axes_raise(wrong):
    with pytest.raises(ConfigError, match="it must be auto or a list of the axes 0, 1 and 2"):
        chosen_flips(wrong, KIDNEYS, "RAS")


def test_warnings(caplog):
    warn_about_sides("auto", KIDNEYS, "RAS", "flip_axes")
    assert (
        "flip_axes: images are not mirrored along axis 0, to avoid exchanging left kidney / right kidney" in caplog.text
    )
    caplog.clear()
    warn_about_sides([0, 2], KIDNEYS, "RAS", "flip_axes")
    assert "flip_axes [0, 2]: mirroring exchanges classes" in caplog.text
    assert "remove axis 0" in caplog.text
    caplog.clear()
    for flips, names, axcodes in (("auto", ["background", "a"], "RAS"), ([1], KIDNEYS, "RAS"), ([0], KIDNEYS, "SAR")):
        warn_about_sides(flips, names, axcodes, "flip_axes")
    assert caplog.text == ""
