"""Bundles as folders and zip files, with dangerous and harmless files of every type."""

import io
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import ROOT
from segbundle.audit import inspect_path
from segbundle.errors import ConfigError


class Evil:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text('{"run": ["$@evaluator.run()"]}')
    return folder


def only_finding(path):
    (finding,) = inspect_path(path)
    return finding


def logging_of(bundle, **entries):
    handler = {"class": "StreamHandler", "args": "(sys.stdout,)", **entries}
    lines = [f"{key.removesuffix('_')}={value}" for key, value in handler.items()]
    (bundle / "configs" / "logging.conf").write_text("\n".join(["[handler_console]", *lines]))


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file or folder"):
        inspect_path(tmp_path / "nothing")


@pytest.mark.parametrize("path", [ROOT / "bundle", *sorted((ROOT / "configs").rglob("*.yaml"))], ids=lambda p: p.stem)
def test_files_of_this_project_have_no_findings(path):
    assert inspect_path(path) == []


@pytest.mark.e2e
def test_template_of_monai_has_no_findings(tmp_path):
    torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), tmp_path / "model.pt")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "init_bundle", tmp_path / "new", tmp_path / "model.pt"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "configs" / "inference.json").is_file()
    assert inspect_path(tmp_path / "new") == []
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "new")
    assert inspect_path(tmp_path / "packed.zip") == []


def test_metadata_is_inspected_like_a_configuration(bundle):
    (bundle / "configs" / "metadata.json").write_text('{"task": "$import evil", "network": "5 $"}')
    assert (only_finding(bundle).file, only_finding(bundle).key) == ("configs/metadata.json", "task")


def test_modules_of_metadata_are_not_values(bundle):
    (bundle / "configs" / "metadata.json").write_text('{"task": "$import os"}')
    (bundle / "configs" / "train.json").write_text('{"x": "$@_meta_#task.mkdir(1)"}')
    assert only_finding(bundle).problem == "uses a module as a value"


def test_files_of_a_bundle_share_imports(bundle):
    (bundle / "configs" / "multi_gpu.json").write_text('{"rank": "$dist.get_rank()"}')
    assert only_finding(bundle).key == "rank"
    (bundle / "configs" / "train.yaml").write_text("imports: [$import torch.distributed as dist]")
    assert inspect_path(bundle) == []


@pytest.mark.parametrize(
    "entries",
    [
        {"class": "FileHandler"},
        {"class": "handlers.SocketHandler"},
        {"class": "__import__('os').system"},
        {"args": "(open('x', 'w'),)"},
        {"args": "(sys.modules,)"},
        {"args": "%(evil)s", "evil": "(print(),)"},
        {"args": "%(missing)s"},
        {"kwargs": "{'stream': print()}"},
        {"kwargs": "{**{}}"},
        {"args": "("},
        {"defaults": "print() or {}"},
    ],
    ids=str,
)
def test_logging_that_runs_code_is_flagged(bundle, entries):
    logging_of(bundle, **entries)
    assert {finding.file for finding in inspect_path(bundle)} == {"configs/logging.conf"}


@pytest.mark.parametrize(
    "entries", [{}, {"args": "()"}, {"class": "logging.NullHandler", "args": ""}, {"kwargs": "{'stream': sys.stderr}"}]
)
def test_logging_to_the_terminal_is_harmless(bundle, entries):
    entries = {key: value for key, value in entries.items() if value}
    logging_of(bundle, **entries)
    assert inspect_path(bundle) == []


def test_evaluated_keys_of_formatters_are_flagged(bundle):
    logging_of(bundle)
    path = bundle / "configs" / "logging.conf"
    path.write_text(path.read_text() + "\n[formatter_own]\nformat=%(message)s\ndefaults=print() or {}\n")
    assert only_finding(bundle).key == "formatter_own#defaults"


def test_formatters_and_broken_logging_are_flagged(bundle):
    path = bundle / "configs" / "logging.conf"
    path.write_text("[formatter_plain]\nclass=evil.Formatter\n")
    assert only_finding(bundle).key == "formatter_plain#class"
    path.write_text("no section")
    assert only_finding(bundle).problem == "cannot be parsed"


def evil_pickles(path):
    payload = Evil(path)
    hidden = b"\x80\x04\x8c\x05posix\x8c\x06system\x8c\x0bcollections\x8c\x0bOrderedDict00\x93."
    memo = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x8c\x01x0h\x00h\x01\x93."
    torch_zip = io.BytesIO()
    torch.save({"x": payload}, torch_zip)
    legacy = io.BytesIO()
    torch.save({"x": payload}, legacy, _use_new_zipfile_serialization=False)
    return {
        "model.pt": torch_zip.getvalue(),
        "model.pth": legacy.getvalue(),
        "model.ckpt": pickle.dumps(payload),
        "model.bin": torch_zip.getvalue(),
        "data.pkl": pickle.dumps([1, payload]),
        "old.pkl": pickle.dumps(payload, protocol=0),
        "no_suffix": pickle.dumps(payload),
        "text.txt": b"cposix\nsystem\n(S'true'\ntR.",
        "hidden.pkl": hidden,
        "memo.pkl": memo,
        "computed.pkl": b"\x80\x04]\x8c\x06system\x93.",
        "extension.pkl": b"\x80\x02\x82\x01.",
        "instance.pkl": b"(S'true'\niposix\nsystem\n.",
        "cut.pkl": pickle.dumps(payload)[:-1],
        "second.pkl": pickle.dumps({"x": 1}) + pickle.dumps(payload),
        "after_values.bin": b"N0cposix\nsystem\n(S'true'\ntR.",
        "scan.npy": b"N0cposix\nsystem\n(S'true'\ntR.",
        "scans.npz": b"N0cposix\nsystem\n(S'true'\ntR.",
        "without_end.bin": b"N0cposix\nsystem\n(S'true'\ntR",
        "hexadecimal.bin": b"I0x10\n0cposix\nsystem\n(S'true'\ntR.",
        "escaped.bin": b"]0S'\\x70osix'\nV\\u0073ystem\n\x93(S'true'\ntR.",
        "instance.bin": b"N0(S'true'\niposix\nsystem\n.",
        "object.dat": b"N0(cposix\nsystem\nS'true'\no.",
        "registered.bin": b"N0\x82\x01.",
        "framed.bin": b"N0\x95" + struct.pack("<Q", 0) + b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        "model.npz": None,
        "array.npy": None,
        "scores": None,
    }


@pytest.mark.parametrize("name", evil_pickles(Path("x")))
def test_pickles_are_flagged_and_not_loaded(bundle, canary, name):
    path = bundle / "models" / name
    content = evil_pickles(canary)[name]
    if content is not None:
        path.write_bytes(content)
    else:
        values = np.array([Evil(canary)], dtype=object)
        with path.open("wb") as file:
            if name.endswith(".npz"):
                np.savez(file, x=np.zeros(2), y=values)
            else:
                np.save(file, values, allow_pickle=True)
    assert {finding.file for finding in inspect_path(bundle)} == {f"models/{name}"}


@pytest.mark.parametrize("name", ["scan.npy", "scan.npz"])
def test_array_without_magic_bytes_is_flagged(bundle, name):
    (bundle / "models" / name).write_bytes(b"no array" * 10)
    assert only_finding(bundle).file == f"models/{name}"


@pytest.mark.parametrize("text", ["No class\n", "N0c1\n2\nR.", "Nclass\nliver\n", "I1\n.", "(lp0\n."])
def test_text_files_without_imports_are_harmless(bundle, text):
    (bundle / "models" / "labels.txt").write_text(text)
    assert inspect_path(bundle) == []


def damaged(content, how):
    """Return a zip file whose first entry is damaged in a given way."""
    start = 30 + content[26] + content[28]
    directory = content.index(b"PK\x01\x02")
    changed = bytearray(content)
    if how == "data":
        changed[start : start + 8] = b"\xff" * 8
    elif how == "encryption":
        changed[6] |= 1
        changed[directory + 8] |= 1
    elif how == "method":
        changed[8] = changed[directory + 10] = 99
    elif how == "header":
        changed[:4] = b"PK\x03\x00"
    elif how == "place":
        changed[directory + 42 : directory + 46] = struct.pack("<I", 2**31)
    elif how == "extra":
        changed[directory + 30] = 3
    elif how == "end":
        del changed[-10:]
    return bytes(changed)


@pytest.mark.parametrize("how", ["data", "encryption", "method", "header", "place", "extra", "end"])
@pytest.mark.parametrize("name", ["model.pt", "array.npz", "bundle.zip", "weights.bin"])
def test_damaged_zip_file_does_not_hide_other_findings(bundle, name, how):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = {"array.npz": "x.npy", "bundle.zip": "a.txt"}.get(name, "model/data.pkl")
        archive.writestr(entry, pickle.dumps({"x": list(range(1000))}))
        archive.writestr("model/version", "3")
    (bundle / "models" / name).write_bytes(damaged(stream.getvalue(), how))
    (bundle / "configs" / "train.json").write_text('{"x": {"_target_": "os.system"}}')
    found = {finding.file.partition(".zip/")[0] for finding in inspect_path(bundle)}
    assert "configs/train.json" in found
    assert f"models/{name}" in found or (name, how) == ("weights.bin", "header")  # no longer a zip file


def test_damaged_entry_does_not_hide_other_findings(bundle):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(list(range(1000))))
        archive.writestr("a/more.pkl", pickle.dumps(Evil(Path("x"))))
    (bundle / "models" / "model.pt").write_bytes(damaged(stream.getvalue(), "data"))
    assert [finding.key for finding in inspect_path(bundle)] == ["a/data.pkl", "a/more.pkl"]


def test_evil_pickle_in_torchscript_is_flagged(bundle, canary):
    path = bundle / "models" / "model.ts"
    torch.jit.script(torch.nn.Conv3d(1, 1, 1)).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/more.pkl", pickle.dumps(Evil(canary)))
    assert only_finding(bundle).key == "model/more.pkl"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"\x80\x02", bytes(20)])
def test_unreadable_checkpoint_is_a_finding(bundle, content):
    (bundle / "models" / "model.pt").write_bytes(content)
    assert only_finding(bundle).file == "models/model.pt"


def test_tensors_are_harmless(bundle):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.BatchNorm3d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(1, 1, 2, 2, 2)).sum().backward()
    optimizer.step()
    everything = {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "note": "posix"}
    models = bundle / "models"
    torch.save(everything, models / "last.pt")
    torch.save(network.state_dict(), models / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"weight": torch.nn.Parameter(torch.rand(2).bfloat16())}, models / "half.pt")
    torch.jit.script(network).save(models / "model.ts")
    np.save(models / "array.npy", np.zeros(3))
    np.savez(models / "arrays.npz", x=np.zeros(3), names=np.array(["a", "b"]))
    (models / "plain.pkl").write_bytes(pickle.dumps({"a": [1, 2.0, "three"]}))
    (models / "raw.bin").write_bytes(os.urandom(100))
    assert inspect_path(bundle) == []


def test_links_may_not_leave_the_folder(bundle, tmp_path):
    (tmp_path / "outside").mkdir()
    (bundle / "configs" / "again.json").symlink_to("inference.json")
    (bundle / "weights").symlink_to("models")
    assert inspect_path(bundle) == []
    for name, target in {"a": "../../outside", "b": "/etc/hostname", "c": "../../missing"}.items():
        link = bundle / "models" / name
        link.symlink_to(target)
        assert (only_finding(bundle).file, only_finding(bundle).excerpt) == (f"models/{name}", target)
        link.unlink()


def test_link_is_inspected_by_its_own_suffix(bundle):
    (bundle / "notes.txt").write_text("x: {_target_: os.system}")
    (bundle / "configs" / "train.yaml").symlink_to("../notes.txt")
    assert only_finding(bundle).file == "configs/train.yaml"


def test_circular_and_broken_links_are_findings(bundle):
    (bundle / "loop").symlink_to(".")
    (bundle / "self").symlink_to("self")
    (bundle / "gone").symlink_to("nothing")
    assert [finding.file for finding in inspect_path(bundle)] == ["gone", "self"]


def test_a_pipe_is_not_opened(bundle):
    os.mkfifo(bundle / "configs" / "train.json")
    assert only_finding(bundle).problem == "is not a regular file"


@pytest.mark.parametrize(
    "name",
    [
        "glob.py",
        "torch.py",
        "monai/__init__.py",
        "nibabel.py",
        "os.pyc",
        "sitecustomize.py",
        "not_installed.py",
        "contourpy/__init__.pyc",
        "namespace/module.py",
        "package/__init__.cpython-311.so",
    ],
)
def test_module_that_replaces_another_is_flagged(bundle, name):
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text("")
    (bundle / "scripts" / "glob.py").write_text("")
    assert inspect_path(bundle) == []
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("")
    assert only_finding(bundle).file == name


def packed(tmp_path, entries):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return path


def link_entry(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    "entries",
    [
        [("../evil.txt", "x")],
        [("bundle/../../evil.txt", "x")],
        [("/tmp/evil.txt", "x")],
        [("..\\evil.txt", "x")],
        [("C:/evil.txt", "x")],
        [(link_entry("configs"), "/etc")],
        [("a.txt", "x"), ("A.txt", "y")],
        [("zeros", bytes(200_000_000))],
        [(f"{number}.txt", "x") for number in range(5_001)],
        [("inner.zip", b"PK\x05\x06" + bytes(18)), ("other.zip", b"PK\x03\x04")],
        [("configs/train.yaml", "x: {_target_: os.system}")],
        [("configs/train.yaml", "x: '%../../../etc/passwd.yaml'")],
        [("models/model.pkl", pickle.dumps(Evil(Path("x"))))],
    ],
    ids=lambda entries: str(getattr(entries[0][0], "filename", entries[0][0])),
)
def test_zip_files_are_flagged_without_leaving_files(tmp_path, monkeypatch, entries):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = packed(tmp_path, entries)
    assert len(inspect_path(path)) >= 1
    assert sorted(tmp_path.rglob("*")) == [path, tmp_path / "temporary"]


def test_zip_file_with_wrong_sizes_is_flagged(tmp_path):
    path = packed(tmp_path, [("zeros.txt", bytes(1000))])
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 1000), struct.pack("<I", 10)))
    assert only_finding(path).problem == "cannot be read as a zip file"


def test_clean_zip_file_has_no_findings(tmp_path):
    model = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, model)
    entries = [("b/configs/train.yaml", "x: $torch.device('cpu')"), ("b/models/model.pt", model.getvalue())]
    assert inspect_path(packed(tmp_path, entries)) == []
