"""Command lines: options of every command with missing, unknown, impossible and code-like values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hostile import right
from hostile.cases import ACCEPTED, CANARY, EITHER, REFUSED, RUN, Case, Place

CODE = {
    "expression": f"${RUN}", "import": f'$__import__("os").system("touch {CANARY}")', "reference": "@class_names",
    "unknown reference": "@nothing", "macro": "%task.yaml::max_epochs", "unknown macro": "%nothing", "only $": "$",
    "only @": "@", "only %": "%", "hash": "a#b", "colons": "a::b", "a component": f'{{"_target_":"builtins.open","file":"{CANARY}","mode":"w"}}',
    "a list of one": f"['${RUN}']", "a call": RUN, "a lambda": f"(lambda: {RUN})()", "a shell": f"`touch {CANARY}`",
    "another shell": f"$(touch {CANARY})", "a newline": f"x\n${RUN}", "NUL-like": "\\x00", "very long": "x" * 3000,
    "unicode": "ü→日本", "a quote": "it's \"quoted\"", "a brace": "{", "a bracket": "[", "dots": "../" * 40, "empty": "",
    "a format": "{0.__class__} %s %d", "a template": "{{7*7}}<script>", "a formula": "=1+1", "a tab": "a\tb",
}  # fmt: skip
_COMMANDS = ("train", "evaluate", "predict", "cross_validate")
_KEYS = ("max_epochs", "spacing", "patch_size", "overlap", "axcodes", "seed", "intensity", "device")


def cases() -> Iterator[Case]:
    yield from _code()
    yield from _paths()
    yield from _options()
    yield from _combinations()


def words(place: Place, command: str) -> list[object]:
    return place.predict(place.material.scan) if command == "predict" else getattr(place, command)()


def with_option(command: str, *options: object) -> Callable[[Place], list[object]]:
    return lambda place: [*words(place, command), *options]


def _code() -> Iterator[Case]:
    """Values of config keys are data: they are not evaluated."""
    for index, (name, value) in enumerate(CODE.items()):
        for offset, command in enumerate(_COMMANDS):
            key = _KEYS[(index + 3 * offset) % len(_KEYS)]
            if command == "predict" and key == "max_epochs":
                key = "overlap"
            yield Case(
                "command line: code",
                f"{command} --{key} {name}",
                with_option(command, f"--{key}", value),
                REFUSED,
                (key,),
            )
        yield Case(
            "command line: code", f"an unknown key, {name}", with_option("train", f"--{value or 'x y'}", "3"), REFUSED
        )
        yield Case(
            "command line: code",
            f"reproduce --steps {name}",
            lambda p, v=value: ["reproduce", "ignore_background", "--steps", v],
            REFUSED,
            ("steps",),
        )


def _paths() -> Iterator[Case]:
    """Missing paths are named in the message, and are not evaluated."""

    def missing(place: Place, option: str, value: str) -> list[object]:
        if option == "scan":
            return place.predict(value)
        if option == "ckpt_path":
            return place.evaluate(ckpt=value)
        if option == "config":
            return place.train(config=value)
        if option == "dataset_dir":
            return place.train(value)
        if option == "bundle":
            return [*place.train(), "--bundle", value]
        if option in ("report", "view"):
            return [option, value, *(["--no-browser"] if option == "view" else [])]
        if option == "check":
            return ["check", value]
        run = place.copied(place.material.evaluated, "out")
        place.may_change.append(run / "report.html")
        return ["report", run, "--dataset_dir", value]

    options = ("scan", "ckpt_path", "config", "dataset_dir", "bundle", "report", "view", "check", "moved")
    for index, (name, value) in enumerate(CODE.items()):
        for offset in range(3):
            option = options[(index + 3 * offset + offset) % len(options)]
            expect = EITHER if value == "" or set(value) <= {".", "/"} else REFUSED
            yield Case(
                "command line: missing path", f"{option} {name}",
                lambda p, o=option, v=value: missing(p, o, v), expect, (),
            )  # fmt: skip
    for name, value in CODE.items():
        if "/" in value or not value or len(value) > 255:
            continue

        def into(place: Place, value: str = value) -> list[object]:
            place.output = place.folder / value
            if value.startswith("-"):
                return [*place.predict(place.material.scan)[:-2], f"--output_dir={value}"]
            line = place.predict(place.material.scan)
            return [*line[:-1], value]

        yield Case(
            "command line: output_dir", name, into, ACCEPTED, (), right.good_scan_done,
            "folder names are plain text",
        )  # fmt: skip


def _options() -> Iterator[Case]:
    line: dict[str, tuple[list[object], str]] = {
        "no dataset": (["train", "--output_dir", "out"], "dataset_dir"),
        "no output": (["train", "--dataset_dir", "data"], "output_dir"),
        "no scans": (["predict", "--output_dir", "out"], "scan"),
        "evaluate without anything": (["evaluate"], "dataset_dir"),
        "cross-validate without anything": (["cross-validate"], "dataset_dir"),
        "check without anything": (["check"], "dataset"),
        "report without anything": (["report"], "runs"),
        "view without anything": (["view"], "run"),
        "samples without anything": (["samples"], "output_dir"),
        "an unknown command": (["trian"], "trian"),
        "a command in capitals": (["TRAIN"], "TRAIN"),
        "a command of spaces": ([" "], "command"),
        "an unknown option first": (["--verbose", "train"], "--verbose"),
        "check with an unknown option": (["check", "data", "--fix"], "--fix"),
        "check of two": (["check", "data", "data"], "data"),
        "plan without anything": (["plan"], "dataset"),
        "plan without a file": (["plan", "data"], "output"),
        "plan into text": (["plan", "data", "-o", "plan.txt"], "plan.txt"),
        "plan of two": (["plan", "data", "data", "-o", "plan.yaml"], "data"),
        "plan with memory text": (["plan", "data", "-o", "plan.yaml", "--memory", "many"], "memory"),
        "plan with memory -1": (["plan", "data", "-o", "plan.yaml", "--memory", "-1"], "memory"),
        "plan with hours 0": (["plan", "data", "-o", "plan.yaml", "--hours", "0"], "hours"),
        "plan with hours text": (["plan", "data", "-o", "plan.yaml", "--hours", "long"], "hours"),
        "plan with an unknown preset": (["plan", "data", "-o", "plan.yaml", "--preset", "huge"], "preset"),
        "plan with an unknown device": (["plan", "data", "-o", "plan.yaml", "--device", "tpu"], "tpu"),
        "train of two": (["train", "data", "data"], "data"),
        "train of nothing": (["train", "nowhere"], "nowhere"),
        "train of an empty word": (["train", ""], "dataset"),
        "report with an unknown option": (["report", "run", "--pdf"], "--pdf"),
        "view of two": (["view", "a", "b"], "b"),
        "view with port text": (["view", "a", "--port", "x"], "port"),
        "view with port 99999": (["view", "a", "--port", "99999"], "port"),
        "view with port -1": (["view", "a", "--port", "-1"], "port"),
        "view with port 1.5": (["view", "a", "--port", "1.5"], "port"),
        "view with port missing": (["view", "a", "--port"], "port"),
        "samples 0": (["samples", "out", "--num_training", "0"], "num_training"),
        "samples -1 tests": (["samples", "out", "--num_test", "-1"], "num_test"),
        "samples text": (["samples", "out", "--num_training", "many"], "num_training"),
        "samples with a seed of text": (["samples", "out", "--seed", "x"], "seed"),
        "samples with a negative seed": (["samples", "out", "--seed", "-1"], "seed"),

        "samples with an unknown option": (["samples", "out", "--size", "3"], "--size"),
        "reproduce nothing known": (["reproduce", "nothing"], "nothing"),
        "reproduce a path": (["reproduce", "../phantom"], "phantom"),
        "reproduce code": (["reproduce", f"${RUN}"], "reproduction"),
        "reproduce with an unknown value": (["reproduce", "ignore_background", "--stps", "3"], "stps"),
        "reproduce with _target_": (["reproduce", "ignore_background", "--_target_", "os.system"], "_target_"),
        "reproduce with two names": (["reproduce", "ignore_background", "x"], "x"),
        "reproduce with one dash": (["reproduce", "ignore_background", "-s", "3"], "-s"),
        "reproduce steps 0": (["reproduce", "ignore_background", "--steps", "0"], "steps"),
        "reproduce steps -1": (["reproduce", "ignore_background", "--steps", "-1"], "steps"),
        "reproduce steps 1.5": (["reproduce", "ignore_background", "--steps", "1.5"], "steps"),
        "reproduce steps []": (["reproduce", "ignore_background", "--steps", "[]"], "steps"),
        "reproduce steps true": (["reproduce", "ignore_background", "--steps"], "steps"),
        "reproduce seeds 3": (["reproduce", "ignore_background", "--seeds", "3"], "seeds"),
        "reproduce seeds []": (["reproduce", "ignore_background", "--seeds", "[]"], "seeds"),
        "reproduce seeds text": (["reproduce", "ignore_background", "--seeds", "[a]"], "seeds"),
        "reproduce size -1": (["reproduce", "ignore_background", "--size", "-1"], "size"),
        "reproduce size huge": (["reproduce", "ignore_background", "--size", "10000000"], "size"),
        "reproduce batch_size 0": (["reproduce", "ignore_background", "--batch_size", "0"], "batch_size"),
        "reproduce learning_rate NaN": (["reproduce", "ignore_background", "--learning_rate", "nan"], "learning_rate"),
        "reproduce voxels of text": (["reproduce", "ignore_background", "--voxels", "many"], "voxels"),
        "reproduce widths of 0": (["reproduce", "ignore_background", "--widths", "[0,0,0]"], "widths"),
        "reproduce into a folder": (["reproduce", "ignore_background", "--steps", "1", "--seeds", "[0]", "--output", "/tmp"], "/tmp"),
        "report into text": (["report", "run", "--output", "x.txt"], "x.txt"),
        "report into no name": (["report", "run", "--output", ""], "run|output"),
        "report of 300 folders": (["report", *["nowhere"] * 300], "nowhere"),
    }  # fmt: skip
    for name, (given, told) in line.items():
        yield Case("command line: options", name, lambda p, g=given: g, REFUSED, (told,))
    for command in _COMMANDS:
        hyphened = command.replace("_", "-")
        wrong: dict[str, tuple[tuple[object, ...], str]] = {
            "--config without a value": (("--config",), "--config"),
            "--bundle without a value": (("--bundle",), "--bundle"),
            "--device without a value": (("--device",), "--device"),
            "a key without a value": (("--spacing",), "spacing"),
            "a key before another option": (("--spacing", "--axcodes", "RAS"), "spacing"),
            "a switch with a number": (("--save_probabilities", "7"), "save_probabilities"),
            "an unknown key": (("--max_epoch", "3"), "max_epoch"),
            "one dash": (("-max_epochs", "3"), "-"),
            "two dashes alone": (("--", "--max_epochs", "-3"), "max_epochs|--"),
            "an equals sign only": (("--=3",), "=|key"),
            "a key with =": (("--spacing=[0,0,0]",), "spacing"),
            "device of nowhere": (("--device", "tpu"), "tpu"),
            "device cuda:7": (("--device", "cuda:7"), "cuda:7"),
            "device empty": (("--device", ""), "device"),
            "a list not closed": (("--patch_size", "[16,16"), "patch_size"),
            "a list of two": (("--patch_size", "[16,16]"), "patch_size"),
            "a huge number": (("--patch_size", "[16,16," + "9" * 400 + "]"), "patch_size"),
            "NaN": (("--spacing", "[1,nan,1]"), "spacing"),
            "a deep list": (("--spacing", "[" * 3000 + "]" * 3000), "spacing"),
            "None in a list": (("--spacing", "[None,1,1]"), "spacing"),
            "bytes": (("--axcodes", b"\xff\xfe\xfd"), "axcodes"),
            "a nested key of nothing": (("--network_def#wings", "2"), "wings"),
            "a nested key of a number": (("--batch_size#x", "2"), "batch_size"),
            "colons for #": (("--network_def::wings", "2"), "wings"),
            "_target_ by the command line": (("--network_def#_target_", "os.system"), "_target_|os.system"),
            "_target_ of everything": (("--_target_", "os.system"), "_target_"),
            "run by the command line": (("--run", f"['${RUN}']"), "run"),
            "initialize by the command line": (("--initialize", f"['${RUN}']"), "initialize"),
            "imports by the command line": (("--imports", f"['${RUN}']"), "imports"),
            "bundle of something else": (("--bundle", "/etc"), "/etc"),
        }  # fmt: skip
        if command != "predict":
            wrong["a word too many"] = (("stray",), "stray")
        for name, (options, told) in wrong.items():
            yield Case("command line: options", f"{hyphened}: {name}", with_option(command, *options), REFUSED, (told,))


def _combinations() -> Iterator[Case]:
    impossible: dict[str, tuple[Callable[[Place], list[object]], str]] = {
        "fold 5 of 2": (with_option("train", "--fold", "5"), "fold"),
        "fold -1": (with_option("train", "--fold", "-1"), "fold"),
        "fold 0.5": (with_option("train", "--fold", "0.5"), "fold"),
        "three folds of two cases": (with_option("train", "--num_folds", "30"), "num_folds"),
        "cross-validate with a fold": (with_option("cross_validate", "--fold", "0"), "fold"),
        "cross-validate with resume": (with_option("cross_validate", "--resume", "true"), "resume"),
        "cross-validate with weights": (with_option("cross_validate", "--ckpt_path", "x.pt"), "ckpt_path"),
        "cross-validate with one fold": (with_option("cross_validate", "--num_folds", "1"), "num_folds"),
        "cross-validate with folds of text": (with_option("cross_validate", "--num_folds", "two"), "num_folds"),
        "cross-validate with more folds than cases": (with_option("cross_validate", "--num_folds", "40"), "num_folds"),
        "evaluate a list that is not there": (with_option("evaluate", "--data_list_key", "test"), "test"),
        "evaluate an unknown list": (with_option("evaluate", "--data_list_key", "tset"), "tset"),
        "evaluate without weights": (with_option("evaluate", "--ckpt_path", "none.pt"), "none.pt"),
        "two channels of one": (with_option("predict", "--network_def#in_channels", "2"), "channel|in_channels|fit"),
        "mirrors along axis 5": (with_option("predict", "--test_time_flips", "[5]"), "test_time_flips"),
        "openvino on CUDA": (with_option("predict", "--backend", "openvino", "--device", "cuda"), "cuda|openvino"),
        "graphs on a CPU": (with_option("predict", "--backend", "cudagraph"), "cudagraph"),
        "cache in /proc": (with_option("train", "--cache_dir", "/proc/1/x"), "/proc/1/x|cache"),
        "MLflow nowhere": (with_option("train", "--mlflow_uri", "http://127.0.0.1:9"), "mlflow|127.0.0.1"),
        "compare predictions with scores": (
            lambda p: ["report", p.copied(p.material.evaluated, "a"), p.copied(p.material.predicted, "b"), "--output", "out/x.html"], "b",
        ),
        "compare two of predictions": (
            lambda p: ["report", p.copied(p.material.predicted, "a"), p.copied(p.material.predicted, "b"), "--output", "out/x.html"], "a|b",
        ),
        "report of a dataset": (lambda p: ["report", p.dataset()], "data"),
        "report of a file": (lambda p: ["report", p.material.task], "task.yaml"),
        "report of a checkpoint": (lambda p: ["report", p.material.checkpoint], "threshold.pt"),
        "view of a dataset": (lambda p: ["view", p.dataset(), "--no-browser"], "data"),
        "view of a training": (lambda p: ["view", p.copied(p.material.trained, "out"), "--no-browser"], "out"),
        "check of a scan": (lambda p: ["check", p.material.scan], "good.nii"),
        "check of a run": (lambda p: ["check", p.material.evaluated], "evaluated"),
        "train on a run": (lambda p: p.train(p.material.evaluated), "evaluated"),
        "predict a task YAML": (lambda p: p.predict(p.material.task), "task.yaml"),
        "predict a checkpoint": (lambda p: p.predict(p.material.checkpoint), "threshold.pt"),
        "predict with a scan as weights": (lambda p: p.predict(p.material.scan, ckpt=p.material.scan), "good.nii"),
        "predict with a scan as task": (lambda p: p.predict(p.material.scan, config=p.material.scan), "good.nii"),
        "predict with a folder as task": (lambda p: p.predict(p.material.scan, config=p.material.folder), "material"),
        "one scan twice": (lambda p: p.predict(p.material.scan, p.material.scan), "good"),
        "two scans of one name": (
            lambda p: p.predict(p.copied(p.material.scan, "a/x.nii"), p.copied(p.material.other, "b/x.nii")), "x",
        ),
        "samples into a folder in use": (
            lambda p: ["samples", p.dataset("out"), "--num_training", "1", "--num_test", "0"], "out",
        ),
        "samples into a file": (lambda p: ["samples", p.file("out", "mine")], "out"),
        "samples below a file": (lambda p: ["samples", p.file("out", "mine") / "x"], "out"),
    }  # fmt: skip
    either = {"one scan twice", "two scans of one name"}
    for name, (build, told) in impossible.items():
        yield Case(
            "command line: combinations", name, build, EITHER if name in either else REFUSED,
            () if name in either else (told,),
        )  # fmt: skip
