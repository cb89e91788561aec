"""SNOMED CT codes of the classes of TotalSegmentator v2 and of the Medical Segmentation Decathlon.

The codes of TotalSegmentator are those of `totalsegmentator_snomed_mapping.csv` in its repository (August 2026), with
one exception: for both subclavian arteries, the file has the code of the right one. The code here is that of DICOM
PS3.16, CID 4031. The codes of the Decathlon are those of pydicom's list of SNOMED CT codes in DICOM (PS3.16). Names
that are used for several structures (`anterior`, `posterior`) or have no code there (tumor cores) are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from segbundle.io.segments import normalized


@dataclass(frozen=True)
class Code:
    """Code of a terminology.

    Attributes:
        value: code, for instance `10200004`.
        meaning: meaning in words.
        scheme: coding scheme designator of DICOM; `SCT` (default) is SNOMED CT.

    Example:
        >>> Code("10200004", "Liver").scheme
        'SCT'
    """

    value: str
    meaning: str
    scheme: str = "SCT"


STRUCTURE = Code("123037004", "Anatomical Structure")
TISSUE = Code("85756007", "Tissue")
ABNORMAL = Code("49755003", "Morphologically Altered Structure")
SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}


@dataclass(frozen=True)
class ClassCode:
    """Codes of a class, as in a segment of DICOM SEG.

    Attributes:
        type: what the class is, for instance the liver.
        category: kind of the type, for instance an anatomical structure (default).
        modifier: side of the type; None (default) for structures without a side.
        region: where an abnormal structure is, for instance the kidney of a cyst (default None).
        region_modifier: side of the region (default None).

    Example:
        >>> ClassCode(Code("10200004", "Liver")).category.meaning
        'Anatomical Structure'
    """

    type: Code
    category: Code = STRUCTURE
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


_SINGLE = {
    "spleen": ("78961009", "Spleen"),
    "gallbladder": ("28231008", "Gallbladder"),
    "liver": ("10200004", "Liver"),
    "stomach": ("69695003", "Stomach"),
    "pancreas": ("15776009", "Pancreas"),
    "lung_middle_lobe_right": ("72481006", "Middle lobe of right lung"),
    "esophagus": ("32849002", "Esophagus"),
    "trachea": ("44567001", "Trachea"),
    "thyroid_gland": ("69748006", "Thyroid gland"),
    "small_bowel": ("30315005", "Small intestine"),
    "duodenum": ("38848004", "Duodenum"),
    "colon": ("71854001", "Colon"),
    "urinary_bladder": ("89837001", "Urinary bladder"),
    "prostate": ("41216001", "Prostate"),
    "sacrum": ("54735007", "Sacrum"),
    "vertebrae_s1": ("65985001", "S1 vertebra"),
    "vertebrae_l5": ("49668003", "L5 vertebra"),
    "vertebrae_l4": ("11994002", "L4 vertebra"),
    "vertebrae_l3": ("36470004", "L3 vertebra"),
    "vertebrae_l2": ("14293000", "L2 vertebra"),
    "vertebrae_l1": ("66794005", "L1 vertebra"),
    "vertebrae_t12": ("23215003", "T12 vertebra"),
    "vertebrae_t11": ("12989004", "T11 vertebra"),
    "vertebrae_t10": ("7610001", "T10 vertebra"),
    "vertebrae_t9": ("82687006", "T9 vertebra"),
    "vertebrae_t8": ("11068009", "T8 vertebra"),
    "vertebrae_t7": ("62487009", "T7 vertebra"),
    "vertebrae_t6": ("45296009", "T6 vertebra"),
    "vertebrae_t5": ("56401006", "T5 vertebra"),
    "vertebrae_t4": ("73071006", "T4 vertebra"),
    "vertebrae_t3": ("1626008", "T3 vertebra"),
    "vertebrae_t2": ("53733008", "T2 vertebra"),
    "vertebrae_t1": ("64864005", "T1 vertebra"),
    "vertebrae_c7": ("87391001", "C7 vertebra"),
    "vertebrae_c6": ("36054005", "C6 vertebra"),
    "vertebrae_c5": ("36978003", "C5 vertebra"),
    "vertebrae_c4": ("5329002", "C4 vertebra"),
    "vertebrae_c3": ("113205007", "C3 vertebra"),
    "vertebrae_c2": ("39976000", "C2 vertebra"),
    "vertebrae_c1": ("14806007", "C1 vertebra"),
    "heart": ("80891009", "Heart"),
    "aorta": ("15825003", "Aorta"),
    "pulmonary_vein": ("122972007", "Pulmonary vein"),
    "brachiocephalic_trunk": ("12691009", "Brachiocephalic artery"),
    "superior_vena_cava": ("48345005", "Superior vena cava"),
    "inferior_vena_cava": ("64131007", "Inferior vena cava"),
    "portal_vein_and_splenic_vein": ("110765007", "Portal vein and splenic vein"),
    "spinal_cord": ("2748008", "Spinal cord"),
    "brain": ("12738006", "Brain"),
    "skull": ("89546000", "Skull"),
    "sternum": ("56873002", "Sternum"),
    "costal_cartilages": ("50016007", "Costal cartilage"),
}
"""Code and meaning of structures without a side, by name."""
_PAIRED = {
    "kidney": ("64033007", "Kidney"),
    "adrenal_gland": ("23451007", "Adrenal gland"),
    "lung_upper_lobe": ("45653009", "Upper lobe of lung"),
    "lung_lower_lobe": ("90572001", "Lower lobe of lung"),
    "subclavian_artery": ("36765005", "Subclavian artery"),
    "common_carotid_artery": ("32062004", "Common carotid artery"),
    "brachiocephalic_vein": ("8887007", "Brachiocephalic vein"),
    "atrial_appendage": ("68786006", "Auricular appendage"),
    "iliac_artery": ("73634005", "Common iliac artery"),
    "iliac_vena": ("46027005", "Common iliac vein"),
    "humerus": ("85050009", "Humerus"),
    "scapula": ("79601000", "Scapula"),
    "clavicula": ("51299004", "Clavicle"),
    "femur": ("71341001", "Femur"),
    "hip": ("29836001", "Hip"),
    "gluteus_maximus": ("181674001", "Gluteus maximus muscle"),
    "gluteus_medius": ("78333006", "Gluteus medius muscle"),
    "gluteus_minimus": ("75297007", "Gluteus minimus muscle"),
    "autochthon": ("244849004", "Deep muscle of back"),
    "iliopsoas": ("68455001", "Iliopsoas muscle"),
}
"""Code and meaning of structures with two sides, by name without the side."""
_RIBS = (
    ("48535007", "First"), ("78247007", "Second"), ("25888004", "Third"), ("25523003", "Fourth"),
    ("15339008", "Fifth"), ("59558009", "Sixth"), ("24915002", "Seventh"), ("5953002", "Eighth"),
    ("22565002", "Ninth"), ("77644006", "Tenth"), ("58830002", "Eleventh"), ("43993008", "Twelfth"),
)  # fmt: skip
_DECATHLON = {
    "left_atrium": ClassCode(Code("82471001", "Left atrium")),
    "hippocampus": ClassCode(Code("5366008", "Hippocampus")),
    "pz": ClassCode(Code("279706003", "Peripheral zone of prostate")),
    "tz": ClassCode(Code("399384005", "Transition zone of prostate")),
    "vessel": ClassCode(Code("59820001", "Blood vessel")),
    "edema": ClassCode(Code("79654002", "Edema"), ABNORMAL),
    **dict.fromkeys(("cancer", "tumour", "tumor"), ClassCode(Code("108369006", "Neoplasm"), ABNORMAL)),
    "colon_cancer_primaries": ClassCode(Code("108369006", "Neoplasm"), ABNORMAL, region=Code("71854001", "Colon")),
}
_CYST, _KIDNEY = Code("367643001", "Cyst"), Code("64033007", "Kidney")


def find_code(name: str) -> ClassCode | None:
    """Return the code of a class of TotalSegmentator or the Medical Segmentation Decathlon; None for other names.

    Case does not matter, and spaces and hyphens are read as underscores.

    Args:
        name: class name.

    Example:
        >>> code = find_code("kidney_left")
        >>> code.type.value, code.modifier.meaning, find_code("anterior")
        ('64033007', 'Left', None)
    """
    key = normalized(name)
    if key in _DECATHLON:
        return _DECATHLON[key]
    known = _SINGLE.get(key) or _PAIRED.get(key)
    if known is not None:
        return ClassCode(Code(*known))
    base, _, side = key.rpartition("_")
    modifier = SIDES.get(side)
    if base == "kidney_cyst" and modifier:
        return ClassCode(_CYST, ABNORMAL, region=_KIDNEY, region_modifier=modifier)
    if base in _PAIRED and modifier:
        return ClassCode(Code(*_PAIRED[base]), modifier=modifier)
    rib = re.fullmatch(r"rib_(left|right)_([1-9]|1[0-2])", key)
    if rib is None:
        return None
    value, ordinal = _RIBS[int(rib[2]) - 1]
    return ClassCode(Code(value, f"{ordinal} rib"), modifier=SIDES[rib[1]])
