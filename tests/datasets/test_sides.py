"""Left and right classes in various spellings, and mirroring without exchanging them."""

import pytest

from segbundle.datasets.sides import chosen_flips, possible_pairs, side_pairs, warn_about_sides
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
        ("linker nier", "rechter nier"), ("Niere li", "Niere re"), ("ren sinistra", "ren dextra"),
        ("ren sinistrum", "ren dextrum"), ("eye_OS", "eye_OD"), ("riñón izq", "riñón dcho"),
        ("riñón izdo", "riñón derecho"),
        ("riñon i", "riñon d"), ("rim esq", "rim dir"), ("rein g", "rein d"), ("nyre_v", "nyre_h"),
        ("linkerlong", "rechterlong"), ("vänsternjure", "högernjure"), ("vasen munuainen", "oikea munuainen"),
        ("levá ledvina", "pravá ledvina"), ("ledvina_leva", "ledvina_prava"), ("levého", "pravého"),
        ("lijevi bubreg", "desni bubreg"), ("ліва нирка", "права нирка"), ("лівий", "правий"),
        ("αριστερός νεφρός", "δεξιός νεφρός"), ("ΑΡΙΣΤΕΡΟΣ ΝΕΦΡΟΣ", "ΔΕΞΙΟΣ ΝΕΦΡΟΣ"), ("bal vese", "jobb vese"),
        ("كلية يسرى", "كلية يمنى"), ("الكلية اليسرى", "الكلية اليمنى"), ("rinichi stâng", "rinichi drept"),
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
        ["background", "lesion_d", "lesion_e", "lesion_f", "lesion_g"],
        ["background", "part v", "part h", "part x"],
        ["background", "g", "d"],
        ["background", "sol nyre", "højre nyre"],
    ],
)
def test_other_names_do_not_pair(names):
    assert side_pairs(names) == []


_NAMES = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right adrenal_gland_left
lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right lung_middle_lobe_right lung_lower_lobe_right esophagus
trachea thyroid_gland small_bowel duodenum colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum
heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left
common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right
atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein iliac_artery_left
iliac_artery_right iliac_vena_left iliac_vena_right humerus_left humerus_right scapula_left scapula_right
clavicula_left clavicula_right femur_left femur_right hip_left hip_right spinal_cord gluteus_maximus_left
gluteus_maximus_right gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right
autochthon_left autochthon_right iliopsoas_left iliopsoas_right brain skull sternum costal_cartilages
"""
TOTALSEGMENTATOR = _NAMES.split()
TOTALSEGMENTATOR += [
    f"vertebrae_{kind}{n}" for kind, last in (("L", 5), ("T", 12), ("C", 7)) for n in range(last, 0, -1)
]
TOTALSEGMENTATOR += ["vertebrae_S1", *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13))]
DATASETS = {
    "Decathlon": ["edema", "non-enhancing tumor", "enhancing tumour", "left atrium", "liver", "cancer", "Anterior",
                  "Posterior", "PZ", "TZ", "pancreas", "Vessel", "Tumour", "colon cancer primaries", "spleen"],
    "zones": ["prostate PZ", "prostate TZ", "brain WM", "brain GM", "lesion ED", "lesion ET"],
    "BTCV": ["spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
             "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
             "left adrenal gland"],
    "AMOS": ["postcava", "duodenum", "bladder", "prostate/uterus"],
    "KiTS": ["kidney", "tumor", "cyst"],
    "BraTS": ["NCR", "ED", "ET", "necrotic core", "peritumoral edema", "TC", "WT"],
    "ACDC": ["RV", "MYO", "LV", "LV ED", "LV ES"],
    "MM-WHS": ["LV blood cavity", "RV blood cavity", "LA blood cavity", "RA blood cavity", "LV myocardium", "aorta"],
    "opposites": ["upper lobe", "lower lobe", "inner ear", "outer ear", "nucleus a", "nucleus p", "gland s", "gland i",
                  "horn_v", "horn_d", "T1 lesion", "T2 lesion", "grade I", "grade V", "class A", "class B",
                  "renal artery", "renal vein", "femoral head", "femoral neck", "vertebra L1", "vertebra T1"],
    "TotalSegmentator": TOTALSEGMENTATOR,
}  # fmt: skip


@pytest.mark.parametrize("dataset", DATASETS)
def test_usual_class_lists_give_no_possible_pairs(dataset):
    assert possible_pairs(["background", *DATASETS[dataset]]) == []


def test_all_pairs_of_totalsegmentator():
    assert len(TOTALSEGMENTATOR) == 117
    pairs = side_pairs(["background", *TOTALSEGMENTATOR])
    assert len(pairs) == sum("right" in name for name in TOTALSEGMENTATOR) - 1  # one lobe is on the right only
    assert {name.replace("left", "right") for pair in pairs for name in pair} == {
        name for name in TOTALSEGMENTATOR if "right" in name
    } - {"lung_middle_lobe_right"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("nerka L", "nerka P"), ("lung_qa", "lung_qe"), ("KT Thận", "KP Thận"), ("neuro (x) nerve", "neuro (z) nerve")],
)
def test_names_that_differ_in_a_short_word(one, other):
    assert possible_pairs(["background", one, "spleen", other]) == [(one, other)]
    assert possible_pairs(["background", one, "spleen"]) == []


def test_numbers_pair_where_they_agree():
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
    with pytest.raises(ConfigError, match=r"it must be auto or a list of axes \(0, 1 or 2\)"):
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


@pytest.mark.parametrize(
    ("flips", "axcodes", "warned"), [("auto", "RAS", True), ([0], None, True), ([1], "RAS", False)]
)
def test_warnings_about_possible_sides(flips, axcodes, warned, caplog):
    warn_about_sides(flips, ["background", "nerka L", "nerka P"], axcodes, "flip_axes")
    text = (
        "nerka L / nerka P differ in one short word, which may mean left and right. If it does, mirroring along axis 0 "
        "exchanges these classes: set flip_axes to []"
    )
    assert (text in caplog.text) == warned


def test_flip_axes_that_are_no_list_raise():
    for flips in (5, "x", [3]):
        with pytest.raises(ConfigError, match="flip_axes is"):
            warn_about_sides(flips, ["background", "left kidney", "right kidney"], "RAS", "augmentation#flip_axes")
