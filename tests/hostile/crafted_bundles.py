"""Configurations and bundles crafted to run code: the audit flags each before any of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile.cases import ACCEPTED, CANARY, EITHER, REFUSED, RUN, Case, Place
from hostile.checkpoints import _Code, saved, state

ROOT = Path(__file__).parents[2]
_OPEN = f"open('{CANARY}', 'w')"
_EXPRESSIONS = {
    "open": f"${_OPEN}", "exec": f'$exec("{_OPEN}")', "eval": f'$eval("{_OPEN}")', "compile": f'$eval(compile("{_OPEN}", "x", "eval"))', "import": f"$__import__('os').system('touch {CANARY}')", "builtins": f"$__builtins__['open']('{CANARY}', 'w')",
    "a lambda": f"$(lambda: {_OPEN})()", "a list": f"$[{_OPEN} for i in range(1)]", "a generator": f"$list({_OPEN} for i in [0])", "a condition": f"$1 if {_OPEN} else 2", "a comparison": f"$1 < {_OPEN}.fileno()", "an f-string": f'$f"{{{_OPEN}}}"', "a format": f"$'{{0.__class__}}'.format({_OPEN})", "a walrus": f"$(x := {_OPEN})",
    "a default": f"$(lambda x={_OPEN}: x)", "a keyword": f"$dict(a={_OPEN})", "a slice": f"$[1][:{_OPEN}.fileno()]", "a star": f"$[*[{_OPEN}]]", "getattr": f"$getattr(__import__('os'), 'system')('touch {CANARY}')", "subclasses": "$().__class__.__base__.__subclasses__()", "globals": "$globals()", "vars": "$vars()",
    "attributes of a network": "$@network.__class__.__init__.__globals__", "a hook": "$@network.register_forward_hook(print)", "a method of a network": "$@network.load_state_dict({})", "torch.load": "$torch.load('x.pt', weights_only=False)", "torch.hub": "$torch.hub.load('a/b', 'c')", "torch's os": f"$torch.os.system('touch {CANARY}')",
    "monai's import": "$monai.utils.optional_import('os')", "monai's importlib": f"$monai.utils.module.importlib.import_module('os').system('touch {CANARY}')", "NumPy's pickles": "$numpy.load('x.npy', allow_pickle=True)", "a library": "$torch.ops.load_library('x.so')", "compiled code": "$torch.utils.cpp_extension.load_inline('x', '')",
    "a file of segbundle": f"$segbundle.files.atomic.write_json('{CANARY}', 1)", "os by the alias": f"$os.system('touch {CANARY}')", "breakpoint": "$breakpoint()", "input": "$input()", "exit": "$exit()", "a huge power": "$9**9**9", "a huge list": "$[0]*10**12", "a huge text": "$'x'*10**12", "nested": "$" + "(" * 300 + "1" + ")" * 300, "spaces before": f"$   {_OPEN}", "a comment": f"${_OPEN} # harmless",
    "two lines": f"$(1,\n{_OPEN})", "another font": f"$ｏｐｅｎ('{CANARY}', 'w')", "a letter of Greek": "$οpen('x')",
}  # fmt: skip
_TARGETS: dict[str, str] = {
    "os.system": f"command: 'touch {CANARY}'", "posix.system": f"command: 'touch {CANARY}'", "os.popen": f"cmd: 'touch {CANARY}'", "subprocess.Popen": f"args: [touch, {CANARY}]", "subprocess.check_output": f"_args_: [[touch, {CANARY}]]", "builtins.exec": f'_args_: ["{_OPEN}"]', "builtins.eval": f'_args_: ["{_OPEN}"]', "builtins.__import__": "name: antigravity",
    "io.open": f"file: {CANARY}, mode: w", "pathlib.Path.touch": f"self: {CANARY}", "importlib.import_module": "name: evil", "runpy.run_path": "path_name: evil.py", "pickle.load": "file: x", "yaml.unsafe_load": "stream: x", "shutil.rmtree": "path: victim", "os.remove": "path: victim/file", "torch.load": "f: x.pt, weights_only: false", "torch.hub.load": "repo_or_dir: a/b, model: c",
    "torch.os.system": f"command: 'touch {CANARY}'", "torch.serialization.pickle.loads": "data: x", "torch.utils.data.os.system": f"command: 'touch {CANARY}'", "torch.multiprocessing.spawn": "fn: x", "torch.save": f"obj: 1, f: {CANARY}", "monai.bundle.run": "config_file: evil.yaml", "monai.bundle.ConfigWorkflow": "config_file: evil.yaml", "monai.utils.run_cmd": f"cmd_list: [touch, {CANARY}]",
    "monai.apps.download_url": f"url: 'file:///etc/hostname', filepath: {CANARY}", "monai.utils.module.importlib.import_module": "name: evil", "monai.transforms.Lambda": f"func: '$lambda x: {_OPEN}'", "segbundle.files.atomic.write_json": f"path: {CANARY}, content: 1", "segbundle.files.atomic.os.system": f"command: 'touch {CANARY}'", "numpy.save": f"file: {CANARY}, arr: 1", "evil.run": "", "evil": "", "numpy.ones": "shape: 3",
    "code.interact": "", "webbrowser.open": "url: 'http://127.0.0.1:9/'", "ctypes.CDLL": "name: x.so", "timeit.timeit": f'stmt: "{_OPEN}"', "functools.partial": f"_args_: ['${_OPEN}']", "operator.methodcaller": "_args_: [system]", "threading.Thread": "target: x",
}  # fmt: skip


def cases() -> Iterator[Case]:
    yield from _task_files()
    yield from _bundles()
    yield from _archives()
    yield from _clean()


def _evil(place: Place) -> None:
    place.file("evil.py", f"open({CANARY!r}, 'w')\ndef run(): pass\n")
    place.file("victim/file", "mine")
    place.file("x.pt", saved(_Code()))


def _task_files() -> Iterator[Case]:
    lines = {
        f"expression: {name}": f"augmentation: {{rotation: {json.dumps(text, ensure_ascii=False)}}}\n"
        for name, text in _EXPRESSIONS.items()
    }
    lines |= {
        f"_target_: {target}": f"augmentation: {{_target_: {target}{', ' if arguments else ''}{arguments}}}\n"
        for target, arguments in _TARGETS.items()
    }
    for name, line in lines.items():
        for command in ("audit", "train"):

            def build(place: Place, command: str = command, line: str = line) -> list[object]:
                _evil(place)
                bad = place.file("bad.yaml", line)
                return ["audit", bad] if command == "audit" else [*place.train(), "--config", bad]

            yield Case("crafted task", f"{command}: {name}", build, REFUSED, ("bad.yaml|augmentation",))


def _bundle(place: Place, name: str = "bundle") -> Path:
    folder = place.folder / name
    shutil.copytree(ROOT / "bundle" / "configs", folder / "configs")
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(saved(state()))
    return folder


def _append(file: str, text: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        with (bundle / file).open("a") as opened:
            opened.write(text)

    return change


def _replace(file: str, old: str, new: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        text = (bundle / file).read_text()
        assert old in text
        (bundle / file).write_text(text.replace(old, new, 1))

    return change


def _write(file: str, content: bytes | str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        path = bundle / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


_RUNS = f"'${_OPEN.replace(chr(39), chr(34))}'"
_BUNDLES: dict[str, Callable[[Path], object]] = {
    **{f"{file}: a key of code": _append(f"configs/{file}", f"extra: {_RUNS}\n") for file in ("train.yaml", "evaluate.yaml", "inference.yaml", "multi_gpu_train.yaml")},
    "inference.yaml: run": _replace("configs/inference.yaml", "$@evaluator.run()", f"$[{RUN}, @evaluator.run()]".replace('"', "'")),
    "inference.yaml: initialize": _replace("configs/inference.yaml", "initialize:\n", f"initialize:\n  - {_RUNS}\n"),
    "inference.yaml: a component": _replace("configs/inference.yaml", "initialize:\n", f"initialize:\n  - {{_target_: builtins.open, file: {CANARY}, mode: w}}\n"),
    "inference.yaml: finalize": _replace("configs/inference.yaml", "finalize:\n", f"finalize:\n  - {_RUNS}\n"),
    "inference.yaml: imports": _append("configs/inference.yaml", "imports: ['$import evil']\n"),
    "train.yaml: another target": _replace("configs/train.yaml", "segbundle.workflow.start_workflow", "evil.run"),
    "metadata.json: code": _replace("configs/metadata.json", "{", f'{{"extra": "${RUN.replace(chr(34), chr(39))}",'),
    "metadata.json: broken": _write("configs/metadata.json", '{"a": '),
    "logging.conf: arguments": _replace("configs/logging.conf", "args=(sys.stdout,)", f"args=({RUN},)"),
    "logging.conf: a class": _replace("configs/logging.conf", "class=StreamHandler", f"class={RUN}"),
    "logging.conf: a module": _replace("configs/logging.conf", "class=StreamHandler", "class=evil.run"),
    "logging.conf: keyword arguments": _replace("configs/logging.conf", "args=(sys.stdout,)", f"args=(sys.stdout,)\nkwargs={{'a': {RUN}}}"),
    "logging.conf: a formatter": _replace("configs/logging.conf", "[formatter_plain]\n", f"[formatter_plain]\nclass={RUN}\n"),
    "logging.conf: a handler to a file": _replace("configs/logging.conf", "class=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)", f"class=FileHandler\nlevel=INFO\nformatter=plain\nargs=('{CANARY}', 'w')"),
    "logging.conf: a handler to the network": _replace("configs/logging.conf", "class=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)", "class=handlers.HTTPHandler\nlevel=INFO\nformatter=plain\nargs=('127.0.0.1:9', '/')"),
    "model.pt: code": _write("models/model.pt", saved(_Code())), "model.pt: code next to weights": _write("models/model.pt", saved({"model": state(), "x": _Code()})), "a pickle": _write("models/x.pkl", pickle.dumps(_Code())), "a pickle called README": _write("docs/README.md", pickle.dumps(_Code())), "a NumPy file of pickles": lambda b: _numpy(b / "models" / "x.npy"),
    "torch.py": _write("torch.py", f"{RUN}\n"), "monai.py": _write("monai.py", f"{RUN}\n"), "os.py": _write("os.py", f"{RUN}\n"), "a package nibabel": _write("nibabel/__init__.py", f"{RUN}\n"), "numpy.so": _write("numpy.so", b"\x7fELF"), "sitecustomize.py": _write("sitecustomize.py", f"{RUN}\n"),
    "a link out": lambda b: (b / "configs" / "x.yaml").symlink_to("/etc/passwd"), "a link to a folder out": lambda b: (b / "data").symlink_to("/etc"), "a link up": lambda b: (b / "up").symlink_to(".."), "a dangling link": lambda b: (b / "x").symlink_to("/nowhere"), "a pipe": lambda b: os.mkfifo(b / "configs" / "x.yaml"), "a pipe for weights": lambda b: os.mkfifo(b / "models" / "x.pt"),
    "a YAML with a tag": _write("configs/x.yaml", f"a: !!python/object/apply:builtins.open [{CANARY}, w]\n"), "a bomb": _write("configs/x.yaml", "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 9)}]\n" for i in range(1, 12))), "Latin-1": _write("configs/x.yaml", "a: h\xe9\n".encode("latin-1")),
    "two documents": _write("configs/x.yaml", f"a: 1\n---\nb: {_RUNS}\n"), "one key twice": _write("configs/x.yaml", f"a: {_RUNS}\na: 1\n"), "a JSON of code": _write("configs/x.json", json.dumps({"a": [{"b": f"${RUN}"}]})), "a macro out": _write("configs/x.yaml", "a: '%/etc/passwd::x'\n"), "a macro up": _write("configs/x.yaml", "a: '%../../secret.yaml::x'\n"),
    "code in a key": _write("configs/x.yaml", f"{_RUNS}: 1\n"), "deep code": _write("configs/x.yaml", "a: {b: {c: [{d: " + _RUNS + "}]}}\n"), "code by an alias": _write("configs/x.yaml", f"a: &x {_RUNS}\nb: *x\n"), "code by a merge": _write("configs/x.yaml", f"a: &x {{c: {_RUNS}}}\nb: {{<<: *x}}\n"), "YML": _write("configs/x.yml", f"a: {_RUNS}\n"), "capitals": _write("configs/X.YAML", f"a: {_RUNS}\n"),
}  # fmt: skip


def _numpy(path: Path) -> None:
    import numpy as np

    np.save(path, np.array([_Code()], dtype=object), allow_pickle=True)


def _bundles() -> Iterator[Case]:
    for name, change in _BUNDLES.items():
        for command in ("audit", "predict", "train"):

            def build(place: Place, command: str = command, change: Callable[[Path], object] = change) -> list[object]:
                _evil(place)
                bundle = _bundle(place)
                change(bundle)
                if command == "audit":
                    return ["audit", bundle]
                words = place.predict(place.material.scan) if command == "predict" else place.train()
                return [*words, "--bundle", bundle]

            if command != "train" or name.split(":")[0] in ("train.yaml", "logging.conf", "metadata.json"):
                yield Case("crafted bundle", f"{command}: {name}", build)


def _archives() -> Iterator[Case]:
    def archive(*members: tuple[str, bytes], link: str | None = None) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # duplicate names
            for name, content in members:
                made.writestr(name, content)
            if link is not None:
                entry = zipfile.ZipInfo("bundle/link")
                entry.external_attr = 0o120777 << 16
                made.writestr(entry, link)
        return file.getvalue()

    config = ("bundle/configs/train.yaml", b"max_epochs: 1\n")
    code = ("bundle/configs/x.yaml", f"a: {_RUNS}\n".encode())
    contents = {
        "code": lambda: archive(config, code), "a path up": lambda: archive(config, ("../evil.yaml", b"a: 1")), "a path far up": lambda: archive(config, ("bundle/../../../../tmp/hostile-evil", b"a: 1")), "an absolute path": lambda: archive(config, ("/tmp/hostile-evil", b"a: 1")), "Windows' path up": lambda: archive(config, ("..\\evil.yaml", b"a: 1")), "a drive": lambda: archive(config, ("C:\\evil.yaml", b"a: 1")),
        "a link out": lambda: archive(config, link="/etc/passwd"), "a link up": lambda: archive(config, link="../.."), "a pickle of code": lambda: archive(config, ("bundle/models/model.pt", saved(_Code()))), "a zip of code": lambda: archive(config, ("x.zip", archive(code))), "a bomb": lambda: archive(config, ("bundle/zeros", bytes(2 * 10**8))), "a file twice": lambda: archive(config, code, config),
        "no zip": lambda: b"PK\x03\x04 and nothing", "cut short": lambda: archive(config, code)[:-30], "damaged": lambda: archive(config, code).replace(b"configs", b"konfigs", 1), "a name of bytes": lambda: archive(config, ("bundle/\udcff.yaml".encode("utf-8", "surrogatepass").decode("latin-1"), f"a: {_RUNS}".encode())), "10,000 files": lambda: archive(*((f"b/{i}.yaml", b"a: '$1/0'") for i in range(10000))),
    }  # fmt: skip
    for name, content in contents.items():
        yield Case(
            "crafted archive",
            name,
            lambda p, c=content: ["audit", p.file("bundle.zip", c())],
            EITHER if name == "no zip" else REFUSED,
            () if name == "no zip" else ("bundle.zip",),
        )


def _clean() -> Iterator[Case]:
    def zipped(place: Place) -> list[object]:
        shutil.make_archive(str(place.folder / "ours"), "zip", ROOT / "bundle")
        return ["audit", place.folder / "ours.zip"]

    yield Case(
        "clean bundle",
        "ours",
        lambda p: ["audit", ROOT / "bundle"],
        ACCEPTED,
        (),
        None,
        "contains nothing that could run code",
    )
    yield Case("clean bundle", "ours, zipped", zipped, ACCEPTED, (), None, "contains nothing that could run code")
    yield Case(
        "clean bundle",
        "a copy of ours, used",
        lambda p: [*p.predict(p.material.scan), "--bundle", _bundle(p)],
        ACCEPTED,
        (),
        None,
        "contains nothing that could run code",
    )
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        yield Case(
            "clean bundle",
            path.name,
            lambda p, c=path: ["audit", c],
            ACCEPTED,
            (),
            None,
            "contains nothing that could run code",
        )
    harmless = {
        "parameters": "optimizer: {_target_: torch.optim.SGD, params: $@network.parameters(), lr: 0.1}", "a list": "patch_size: '$[16, 16, 16]'", "arithmetic": "max_epochs: '$2 * 1'", "a reference": "val_interval: '@max_epochs'", "a text with a dollar": "mlflow_uri: null # $open('x')",
    }  # fmt: skip
    for name, line in harmless.items():
        yield Case(
            "clean bundle",
            f"audit: {name}",
            lambda p, c=line: ["audit", p.file("fine.yaml", c + "\n")],
            ACCEPTED,
            (),
            None,
            "MONAI's own conventions need it",
        )
