"""Task YAMLs: every key of the bundle with values of wrong types and sizes, components, references, and broken files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from hostile.cases import ACCEPTED, CANARY, EITHER, REFUSED, RUN, Case, Place

_SCALARS = {
    "text": "x", "empty text": '""', "a list": "[3]", "an empty list": "[]", "a mapping": "{a: 1}", "null": "null",
    "NaN": ".nan", "infinity": ".inf", "-infinity": "-.inf", "-1": "-1", "0": "0", "huge": "1000000000000",
    "true": "true", "0.5": "0.5", "a date": "2020-01-01", "a number as text": '"3"', "bytes": "!!binary aGk=",
    "an expression": f"'${RUN}'", "a component": f"{{_target_: builtins.open, file: {CANARY}, mode: w}}",
    "an unknown reference": "'@nothing'",
}  # fmt: skip
_TRIPLES = {
    "two": "[16, 16]", "four": "[16, 16, 16, 16]", "zeros": "[0, 0, 0]", "negative": "[-1, -1, -1]",
    "three NaN": "[.nan, .nan, .nan]", "three nulls": "[null, null, null]", "nested": "[[16], [16], [16]]",
    "three texts": "[a, b, c]", "three of 1e12": "[1.0e+12, 1.0e+12, 1.0e+12]", "three booleans": "[true, true, true]",
    "an expression in a list": f"[16, 16, '${RUN}']",
}  # fmt: skip
# key: valid values, values that may be refused
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "class_names": (set(), set()),
    "axcodes": ({"null"}, set()),
    "spacing": ({"null"}, {"three of 1e12"}),
    "intensity": (set(), set()),
    "fold": ({"null", "0"}, set()),
    "num_folds": (set(), set()),
    "split_seed": ({"0"}, {"huge"}),
    "seed": ({"null", "0"}, {"huge"}),
    "data_list_key": (set(), set()),
    "patch_size": (set(), set()),
    "window_size": (set(), set()),
    "overlap": ({"0", "0.5", "zeros"}, set()),
    "sw_batch_size": (set(), {"huge"}),
    "precision": (set(), set()),
    "backend": (set(), set()),
    "test_time_flips": ({"an empty list"}, set()),
    "skip_air": ({"true"}, set()),
    "largest_component": ({"true", "an empty list"}, set()),
    "save_probabilities": ({"true"}, set()),
    "nsd_tolerance_mm": ({"null", "0", "0.5", "huge"}, {"infinity"}),
    "resume": ({"true"}, set()),
    "max_epochs": ({"huge"}, set()),
    "val_interval": ({"huge"}, set()),
    "patience": ({"null", "huge"}, set()),
    "batch_size": (set(), set()),
    "num_workers": ({"0"}, {"huge"}),
    "cache_dir": ({"null", "text", "a number as text"}, {"empty text"}),
    "mlflow_uri": ({"null", "text", "a number as text"}, {"empty text"}),
    "augmentation": ({"null"}, set()),
    "ema_decay": ({"null", "0", "0.5"}, set()),
    "max_gradient_norm": ({"null", "0.5", "huge", "infinity"}, set()),
    "device": (set(), {"null", "0"}),
    "ckpt_path": ({"null"}, {"an empty list", "empty text"}),
    "bundle_root": ({"text", "a number as text", "empty text"}, {*_SCALARS} - {"an expression", "a component"}),
    "network_def": (set(), set()),
    "network": (set(), set()),
    "loss": (set(), set()),
    "optimizer": (set(), set()),
    "lr_scheduler": (set(), {"null"}),
}
_OF_INFERENCE = {
    "window_size", "overlap", "sw_batch_size", "backend", "test_time_flips", "skip_air", "largest_component",
    "save_probabilities",
}  # fmt: skip
_OF_EVALUATION = {"nsd_tolerance_mm"}
_OF_THREE = {"spacing", "patch_size", "window_size", "overlap", "axcodes", "test_time_flips"}
_RARE = {"-infinity", "a date", "bytes", "a number as text"}
_EVERYWHERE = {"class_names", "axcodes", "spacing", "intensity", "patch_size", "precision", "network_def"}


def cases() -> Iterator[Case]:
    yield from _values()
    yield from _arguments()
    yield from _references()
    yield from _files()
    yield from _unknown_keys()


def with_overlay(lines: str, command: str = "train") -> Callable[[Place], list[object]]:
    """Return a command with a second YAML as overlay of the valid one."""

    def build(place: Place) -> list[object]:
        extra = place.file("bad.yaml", lines)
        words = place.predict(place.material.scan) if command == "predict" else getattr(place, command)()
        return [*words, "--config", extra]

    return build


def _values() -> Iterator[Case]:
    for key, (fine, doubtful) in _KEYS.items():
        values = {**_SCALARS, **(_TRIPLES if key in _OF_THREE else {})}
        for name, value in values.items():
            if name in fine or (name in _RARE and key not in _EVERYWHERE):
                continue
            command = "predict" if key in _OF_INFERENCE else "evaluate" if key in _OF_EVALUATION else "train"
            expect = EITHER if name in doubtful else REFUSED
            code = name in ("an expression", "a component", "an expression in a list")
            yield Case(
                "YAML value", f"{key} is {name}", with_overlay(f"{key}: {value}\n", command), expect,
                ("bad.yaml|" + key if code else key,) if expect == REFUSED else (),
            )  # fmt: skip
            if key in _EVERYWHERE and name in ("text", "a list", "NaN", "an expression", "two", "three NaN"):
                for other in ("predict", "evaluate", "cross_validate"):
                    yield Case(
                        "YAML value", f"{other}: {key} is {name}", with_overlay(f"{key}: {value}\n", other), REFUSED,
                        ("bad.yaml|" + key,),
                    )  # fmt: skip


def _arguments() -> Iterator[Case]:
    """Single arguments of components."""
    conv = "torch.nn.Conv3d, in_channels: 1, out_channels: 2, kernel_size: 1"
    wrong: dict[str, tuple[str, str]] = {
        # intensity
        "intensity: no method": ("intensity: {lower: 0, upper: 1}", "intensity|method"),
        "intensity: unknown method": ("intensity: {method: magic}", "magic"),
        "intensity: method is a number": ("intensity: {method: 3}", "method|intensity"),
        "intensity: method is a list": ("intensity: {method: [zscore]}", "method|intensity"),
        "intensity: no upper": ("intensity: {method: window, lower: 0}", "upper|intensity"),
        "intensity: lower above upper": ("intensity: {method: window, lower: 5, upper: 1}", "lower|intensity"),
        "intensity: lower is upper": ("intensity: {method: window, lower: 5, upper: 5}", "lower|intensity"),
        "intensity: lower is NaN": ("intensity: {method: window, lower: .nan, upper: 5}", "lower|intensity"),
        "intensity: upper is infinity": ("intensity: {method: window, lower: 0, upper: .inf}", "upper|intensity"),
        "intensity: lower is text": ("intensity: {method: window, lower: low, upper: 5}", "lower|intensity"),
        "intensity: lower is null": ("intensity: {method: window, lower: null, upper: 5}", "lower|intensity"),
        "intensity: std 0": ("intensity: {method: ct, lower: 0, upper: 5, mean: 1, std: 0}", "std|intensity"),
        "intensity: std negative": ("intensity: {method: ct, lower: 0, upper: 5, mean: 1, std: -1}", "std|intensity"),
        "intensity: mean is text": ("intensity: {method: ct, lower: 0, upper: 5, mean: a, std: 1}", "mean|intensity"),
        "intensity: an unknown argument": ("intensity: {method: zscore, lowr: 3}", "lowr"),
        "intensity: run": (f"intensity: {{method: '${RUN}'}}", "intensity|bad.yaml"),
        # augmentation
        "augmentation: unknown key": ("augmentation: {rotatoin: 3}", "rotatoin"),
        "augmentation: flip_axes 3": ("augmentation: {flip_axes: [3]}", "flip_axes"),
        "augmentation: flip_axes text": ("augmentation: {flip_axes: x}", "flip_axes"),
        "augmentation: flip_axes -1": ("augmentation: {flip_axes: [-1]}", "flip_axes"),
        "augmentation: flip_axes of halves": ("augmentation: {flip_axes: [0.5]}", "flip_axes"),
        "augmentation: rotation text": ("augmentation: {rotation: lots}", "rotation"),
        "augmentation: rotation NaN": ("augmentation: {rotation: .nan}", "rotation"),
        "augmentation: rotation infinite": ("augmentation: {rotation: .inf}", "rotation"),
        "augmentation: rotation negative": ("augmentation: {rotation: -3}", "rotation"),
        "augmentation: rotation a list": ("augmentation: {rotation: [1, 2]}", "rotation"),
        "augmentation: scaling 1": ("augmentation: {scaling: 1.0}", "scaling"),
        "augmentation: scaling text": ("augmentation: {scaling: big}", "scaling"),
        "augmentation: scaling NaN": ("augmentation: {scaling: .nan}", "scaling"),
        "augmentation: scaling negative": ("augmentation: {scaling: -0.5}", "scaling"),
        # network
        "network: no _target_": ("network_def: {in_channels: 1}", "network_def"),
        "network: unknown class": ("network_def: {_target_: monai.networks.nets.Nothing}", "Nothing"),
        "network: unknown module": ("network_def: {_target_: no.such.module.Net}", "no.such.module"),
        "network: _target_ is a number": ("network_def: {_target_: 3}", "network_def|_target_"),
        "network: _target_ is null": ("network_def: {_target_: null}", "network_def|_target_"),
        "network: _target_ is empty": ('network_def: {_target_: ""}', "network_def|_target_"),
        "network: _target_ is a list": ("network_def: {_target_: [torch.nn.Conv3d]}", "network_def|_target_"),
        "network: no network": ("network_def: {_target_: collections.OrderedDict}", "network_def|OrderedDict"),
        "network: abstract": ("network_def: {_target_: torch.nn.Module}", "network"),
        "network: 2D": ("network_def: {_target_: torch.nn.Conv2d, in_channels: 1, out_channels: 2, kernel_size: 1}", "network"),
        "network: three channels in": (f"network_def: {{_target_: {conv.replace('in_channels: 1', 'in_channels: 3')}}}", "channel"),
        "network: three classes out": (f"network_def: {{_target_: {conv.replace('out_channels: 2', 'out_channels: 3')}}}", "class_names|network"),
        "network: no channels": (f"network_def: {{_target_: {conv.replace('in_channels: 1', 'in_channels: 0')}}}", "channels|network"),
        "network: channels are text": (f"network_def: {{_target_: {conv.replace('in_channels: 1', 'in_channels: one')}}}", "channels|network_def"),
        "network: channels are null": (f"network_def: {{_target_: {conv.replace('in_channels: 1', 'in_channels: null')}}}", "channels|network_def"),
        "network: negative channels": (f"network_def: {{_target_: {conv.replace('out_channels: 2', 'out_channels: -2')}}}", "channels|network"),
        "network: smaller scores": (f"network_def: {{_target_: {conv.replace('kernel_size: 1', 'kernel_size: 3')}}}", "network"),
        "network: an unknown argument": (f"network_def: {{_target_: {conv}, wings: 2}}", "wings"),
        "network: a missing argument": ("network_def: {_target_: torch.nn.Conv3d, in_channels: 1}", "network_def|out_channels|Conv3d"),
        "network: huge": ("network_def: {_target_: torch.nn.Conv3d, in_channels: 1, out_channels: 2, kernel_size: 100001}", "network|memory|kernel"),
        "network: strides text": ("network_def: {_target_: DynUNet, spatial_dims: 3, in_channels: 1, out_channels: 2, kernel_size: [3, 3], strides: x, upsample_kernel_size: [2]}", "network_def|strides|DynUNet"),
        "network: one stride too few": ("network_def: {_target_: DynUNet, spatial_dims: 3, in_channels: 1, out_channels: 2, kernel_size: [3, 3, 3], strides: [1, 2], upsample_kernel_size: [2]}", "network_def|strides|kernel_size|DynUNet"),
        "network: filters that do nothing": ("network_def: {_target_: DynUNet, spatial_dims: 3, in_channels: 1, out_channels: 2, kernel_size: [3, 3], strides: [1, 2], upsample_kernel_size: [2], filters: [4, 8, 16, 32]}", "filters"),
        "network: debugger": (f"network_def: {{_target_: {conv}, _mode_: debug}}", "_mode_|bad.yaml"),
        "network: partial": (f"network_def: {{_target_: {conv}, _mode_: callable}}", "network|_mode_"),
        "network: disabled": (f"network_def: {{_target_: {conv}, _disabled_: true}}", "network|_disabled_"),
        "network: requires an expression": (f"network_def: {{_target_: {conv}, _requires_: '${RUN}'}}", "_requires_|bad.yaml|network"),
        "network: runs a command": (f"network_def: {{_target_: os.system, command: 'touch {CANARY}'}}", "os.system"),
        "network: runs by subprocess": (f"network_def: {{_target_: subprocess.getoutput, cmd: 'touch {CANARY}'}}", "subprocess"),
        "network: eval": (f"network_def: {{_target_: builtins.eval, _args_: ['{RUN}']}}", "eval"),
        "network: exec": (f"network_def: {{_target_: builtins.exec, object: '{RUN}'}}", "exec"),
        "network: torch.load": ("network_def: {_target_: torch.load, f: x.pt, weights_only: false}", "torch.load|x.pt"),
        "network: torch.hub": ("network_def: {_target_: torch.hub.load, repo_or_dir: a/b, model: c}", "torch.hub|network"),
        "network: monai's runner": ("network_def: {_target_: monai.bundle.run, config_file: bad.yaml}", "monai.bundle.run|network|bad.yaml"),
        "network: monai's command": (f"network_def: {{_target_: monai.utils.run_cmd, cmd_list: [touch, {CANARY}]}}", "run_cmd|bad.yaml"),
        # loss
        "loss: no _target_": ("loss: {softmax: true}", "loss"),
        "loss: unknown": ("loss: {_target_: segbundle.losses.DiceLos}", "DiceLos"),
        "loss: no loss": ("loss: {_target_: torch.nn.ReLU}", "loss|ReLU"),
        "loss: an unknown argument": ("loss#smoth: 1", "smoth"),
        "loss: absent": ("loss#absent: maybe", "absent"),
        "loss: smooth_nr NaN": ("loss#smooth_nr: .nan", "smooth_nr"),
        "loss: smooth_dr negative": ("loss#smooth_dr: -1", "smooth_dr"),
        "loss: smooth_dr text": ("loss#smooth_dr: tiny", "smooth_dr"),
        "loss: weight of another number": ("loss#weight: [1, 2, 3, 4]", "weight"),
        "loss: weight NaN": ("loss#weight: [1, .nan]", "weight"),
        "loss: weight negative": ("loss#weight: [1, -1]", "weight"),
        "loss: weight text": ("loss#weight: [a, b]", "weight"),
        "loss: lambda_dice negative": ("loss#lambda_dice: -1", "lambda_dice"),
        "loss: lambda_ce NaN": ("loss#lambda_ce: .nan", "lambda_ce"),
        "loss: sigmoid and softmax": ("loss#sigmoid: true", "sigmoid"),
        "loss: reduction": ("loss#reduction: sometimes", "reduction"),
        "loss: ignore_index text": ("loss#ignore_index: x", "ignore_index"),
        "loss: runs": (f"loss: {{_target_: builtins.open, file: {CANARY}, mode: w}}", "open"),
        # optimizer and schedule
        "optimizer: no _target_": ("optimizer: {lr: 0.1}", "optimizer"),
        "optimizer: unknown": ("optimizer: {_target_: torch.optim.Nothing, params: $@network.parameters()}", "Nothing"),
        "optimizer: no optimizer": ("optimizer: {_target_: collections.Counter}", "optimizer|Counter"),
        "optimizer: lr text": ("optimizer#lr: fast", "lr"),
        "optimizer: lr negative": ("optimizer#lr: -0.1", "lr|learning rate"),
        "optimizer: lr NaN": ("optimizer#lr: .nan", "lr|learning rate"),
        "optimizer: lr infinite": ("optimizer#lr: .inf", "lr|learning rate"),
        "optimizer: lr null": ("optimizer#lr: null", "lr"),
        "optimizer: lr a list": ("optimizer#lr: [0.1]", "lr"),
        "optimizer: weight_decay text": ("optimizer#weight_decay: a", "weight_decay"),
        "optimizer: weight_decay negative": ("optimizer#weight_decay: -1", "weight_decay"),
        "optimizer: an unknown argument": ("optimizer#momentm: 0.9", "momentm"),
        "optimizer: an argument of another": ("optimizer#nesterov: true", "nesterov"),
        "optimizer: params of nothing": ("optimizer: {_target_: torch.optim.SGD, params: [], lr: 0.1}", "optimizer|params"),
        "optimizer: params run": (f"optimizer#params: '${RUN}'", "optimizer|bad.yaml"),
        "optimizer: params run as well": (f"optimizer#params: '$(@network.parameters(), {RUN})[0]'", "optimizer|bad.yaml"),
        "schedule: unknown": ("lr_scheduler: {_target_: torch.optim.lr_scheduler.Nothing}", "Nothing"),
        "schedule: power text": ("lr_scheduler#power: a", "power"),
        "schedule: an unknown argument": ("lr_scheduler#pow: 2", "pow"),
        "schedule: no optimizer": ("lr_scheduler: {_target_: torch.optim.lr_scheduler.StepLR, step_size: 3}", "lr_scheduler|optimizer"),
        "schedule: no schedule": ("lr_scheduler: {_target_: collections.Counter}", "lr_scheduler|Counter"),
        # sections of the workflow
        "trainer: max_epochs text": ("train#trainer#max_epochs: many", "max_epochs"),
        "trainer: max_epochs negative": ("train#trainer#max_epochs: -1", "max_epochs"),
        "trainer: unknown argument": ("train#trainer#epoch: 3", "epoch"),
        "trainer: a number": ("train#trainer: 3", "trainer"),
        "train: a number": ("train: 3", "train"),
        "train: null": ("train: null", "train"),
        "train: a list": ("train: [1]", "train"),
        "validate: text": ("validate: x", "validate"),
        "run: a number": ("run: 3", "run"),
        "run: other code": (f"run: ['${RUN}']", "run|bad.yaml"),
        "initialize: other code": (f"initialize: ['${RUN}']", "initialize|bad.yaml"),
        "initialize: a component": (f"initialize: [{{_target_: builtins.open, file: {CANARY}, mode: w}}]", "initialize|bad.yaml"),
        "finalize: other code": (f"finalize: ['${RUN}']", "finalize|bad.yaml"),
        "imports: other code": (f"imports: ['${RUN}']", "imports|bad.yaml"),
        "_meta_: code": (f"_meta_: {{x: '${RUN}'}}", "_meta_|bad.yaml"),
        # numbers of classes and names
        "class_names: one only": ("class_names: [background]", "class"),
        "class_names: three": ("class_names: [background, bright, dark]", "class_names|dark|bright"),
        "class_names: doubled": ("class_names: [background, background]", "class_names|background"),
        "class_names: nulls": ("class_names: [null, null]", "class_names"),
        "class_names: nested": ("class_names: [[background], [bright]]", "class_names"),
        "class_names: a mapping": ("class_names: {0: background, 1: bright}", "class_names"),
        "class_names: code": (f"class_names: [background, '${RUN}']", "class_names|bad.yaml"),
        "class_names: empty name": ('class_names: [background, ""]', "class_names"),
        "class_names: 300": (f"class_names: [{', '.join(f'c{i}' for i in range(300))}]", "class_names|class"),
        "class_names: ignore": ("class_names: [background, ignore]", "class_names|ignore"),
        "axcodes: RRR": ("axcodes: RRR", "axcodes"),
        "axcodes: four letters": ("axcodes: RASR", "axcodes"),
        "axcodes: other letters": ("axcodes: XYZ", "axcodes"),
        "axcodes: lower case": ("axcodes: ras", "axcodes"),
        "fold: 2 of 2": ("fold: 2", "fold"),
        "num_folds: more than cases": ("num_folds: 9", "num_folds"),
        "num_folds: 1": ("num_folds: 1", "num_folds"),
        "overlap: 1": ("overlap: 1.0", "overlap"),
        "overlap: 1.5": ("overlap: 1.5", "overlap"),
        "ema_decay: 1": ("ema_decay: 1.0", "ema_decay"),
        "ema_decay: 2": ("ema_decay: 2", "ema_decay"),
        "precision: fp16 in training": ("precision: fp16", "precision"),
        "precision: fp8": ("precision: fp8", "precision"),
        "backend: tensorrt": ("backend: tensorrt", "backend"),
        "device: cuda:99": ("device: cuda:99", "device"),
        "device: mps": ("device: mps", "device"),
        "device: meta": ("device: meta", "device"),
        "patch_size: one too large for memory": ("patch_size: [4000, 4000, 4000]", "patch_size|memory"),
        "patch_size: 1e5": ("patch_size: [1.0e+5, 16, 16]", "patch_size"),
        "batch_size: a million": ("batch_size: 1000000", "batch_size"),
        "largest_component: unknown class": ("largest_component: [dark]", "largest_component|dark"),
        "nsd_tolerance_mm: unknown class": ("nsd_tolerance_mm: {dark: 1}", "nsd_tolerance_mm"),
        "nsd_tolerance_mm: no class": ("nsd_tolerance_mm: {}", "nsd_tolerance_mm"),
        "nsd_tolerance_mm: text": ("nsd_tolerance_mm: {bright: wide}", "nsd_tolerance_mm"),
        "test_time_flips: doubled": ("test_time_flips: [0, 0]", "test_time_flips"),
        "test_time_flips: 3": ("test_time_flips: [3]", "test_time_flips"),
        "cache_dir: a file": ("cache_dir: /dev/null", "cache_dir|/dev/null"),
        "cache_dir: nowhere": ("cache_dir: /proc/nowhere", "cache_dir|/proc/nowhere"),
        "mlflow_uri: nonsense": ("mlflow_uri: '::::'", "mlflow"),
        "mlflow_uri: unknown scheme": ("mlflow_uri: gopher://x", "mlflow"),
        "ckpt_path: missing": ("ckpt_path: nowhere.pt", "nowhere.pt"),
        "ckpt_path: a folder": ("ckpt_path: /tmp", "/tmp"),
        "dataset_dir: code": (f"dataset_dir: '${RUN}'", "dataset_dir|bad.yaml"),
    }  # fmt: skip
    either = {"test_time_flips: doubled", "class_names: ignore", "axcodes: lower case", "nsd_tolerance_mm: no class",
              "device: meta", "num_folds: 1"}  # fmt: skip
    for name, (line, told) in wrong.items():
        key = name.partition(":")[0]
        command = "predict" if key in (*_OF_INFERENCE, "backend") else "evaluate" if key in _OF_EVALUATION else "train"
        expect = EITHER if name in either else REFUSED
        names = (told,) if expect == REFUSED else ()
        yield Case("YAML component", name, with_overlay(line + "\n", command), expect, names)


def _references() -> Iterator[Case]:
    wrong = {
        "to itself": ("max_epochs: '@max_epochs'", "max_epochs"),
        "in a circle": ("max_epochs: '@val_interval'\nval_interval: '@max_epochs'", "max_epochs|val_interval"),
        "to nothing": ("max_epochs: '@epochs'", "epochs"),
        "to a mapping": ("max_epochs: '@intensity'", "max_epochs"),
        "to text": ("max_epochs: '@axcodes'", "max_epochs"),
        "into a list": ("max_epochs: '@patch_size#7'", "patch_size"),
        "within a number": ("max_epochs: '@batch_size#x'", "batch_size"),
        "only @": ("max_epochs: '@'", "max_epochs"),
        "only $": ("max_epochs: '$'", "max_epochs"),
        "only %": ("max_epochs: '%'", "max_epochs"),
        "macro of a missing file": ("max_epochs: '%nowhere.yaml::max_epochs'", "nowhere.yaml"),
        "macro of /etc/passwd": ("axcodes: '%/etc/passwd::root'", "passwd"),
        "macro of another file": ("max_epochs: '%../../etc/hostname::x'", "hostname"),
        "macro to nothing": ("max_epochs: '%nothing'", "nothing"),
        "macro to itself": ("max_epochs: '%max_epochs'", "max_epochs"),
        "expression with an error": ("max_epochs: '$1/0'", "max_epochs|bad.yaml"),
        "expression with a syntax error": ("max_epochs: '$1 +'", "max_epochs|bad.yaml"),
        "expression of another name": ("max_epochs: '$undefined_name'", "max_epochs|bad.yaml"),
        "expression that exits": ("max_epochs: '$exit(0)'", "max_epochs|bad.yaml"),
        "expression that raises": ("max_epochs: '$int(\"x\")'", "max_epochs|bad.yaml"),
        "expression that imports": (f"max_epochs: '$__import__(\"os\").system(\"touch {CANARY}\")'", "max_epochs|bad.yaml"),
        "expression of attributes": (
            f"max_epochs: '$().__class__.__base__.__subclasses__() and {RUN}'", "max_epochs|bad.yaml",
        ),
        "expression in an f-string": (f"axcodes: '$f\"{{{RUN.replace(chr(34), chr(39) * 2)}}}\"'", "axcodes|bad.yaml"),
        "expression with @ before": (f"max_epochs: '$@network.parameters() and {RUN}'", "max_epochs|bad.yaml"),
        "expression as a key": (f"'${RUN}': 3", "bad.yaml|open"),
        "expression after a line break": (f"max_epochs: \"$\\n{RUN.replace(chr(34), chr(39))}\"", "max_epochs|bad.yaml"),
        "expression that looks harmless": (
            f"optimizer#params: '$[{RUN}, @network.parameters()][1]'", "optimizer|bad.yaml",
        ),
        "import statement": ("imports: '$import antigravity'", "imports|bad.yaml"),
        "import of a module of the folder": ("imports: '$import evil'", "imports|bad.yaml"),
        "deep in a list": (f"train: {{handlers: [[[['${RUN}']]]]}}", "train|bad.yaml|handlers"),
        "in a key of no workflow": (f"notes: '${RUN}'", "notes|bad.yaml"),
    }  # fmt: skip
    for name, (lines, told) in wrong.items():

        def build(place: Place, lines: str = lines) -> list[object]:
            place.file("evil.py", f"{RUN}\n")
            return with_overlay(lines + "\n")(place)

        yield Case("YAML reference", name, build, REFUSED, (told,))
    yield Case(
        "YAML value",
        "num_workers is 0",
        with_overlay("num_workers: 0\n"),
        ACCEPTED,
        (),
        None,
        "no worker prepares cases during the training",
    )
    harmless = {
        "to another key": ("val_interval: '@max_epochs'", "references between keys are what MONAI's YAML is for"),
        "in a network's argument": ("network_def#in_channels: '@batch_size'", "the value is a valid number"),
    }
    for name, (lines, reason) in harmless.items():
        yield Case("YAML reference", name, with_overlay(lines + "\n"), ACCEPTED, (), None, reason)


def _files() -> Iterator[Case]:
    bomb = "\n".join(["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 9)}]" for i in range(1, 12)])
    contents: dict[str, bytes | str] = {
        "empty": "", "spaces": "  \n\n", "a comment only": "# nothing\n", "a list": "- max_epochs\n", "text": "max_epochs",
        "a number": "3", "null": "null", "true": "true", "a tab": "max_epochs:\t\n\t3\n", "not closed": "spacing: [1, 2",
        "a quote not closed": 'axcodes: "RAS', "wrong indentation": "loss:\n  a: 1\n b: 2\n", "two colons": "a: b: c",
        "two documents": "max_epochs: 1\n---\nmax_epochs: 2\n", "a directive": "%YAML 9.9\n---\nmax_epochs: 1\n",
        "a key that is a number": "3: x", "a key that is null": "null: x", "a key that is a list": "? [a]\n: b\n",
        "a key that is a mapping": "? {a: b}\n: c\n", "a key that is a date": "2020-01-01: x", "an alias of nothing": "a: *b",
        "a list in itself": "train: &a [*a]", "a mapping in itself": "train: &a {b: *a}", "an alias bomb": bomb,
        "a bomb of mappings": bomb.replace("[", "{q: [").replace("]", "]}"),
        "a merge of nothing": "<<: 3\n", "a merge bomb": "a: &a {x: 1}\n" + "".join(f"b{i}: {{<<: [{', '.join(['*a'] * 500)}]}}\n" for i in range(300)),
        "deep lists": "max_epochs: " + "[" * 5000 + "]" * 5000, "deep mappings": "max_epochs: " + "{a: " * 3000 + "1" + "}" * 3000,
        "a million keys": "".join(f"key{i}: 1\n" for i in range(120000)), "a long line": "axcodes: " + "A" * 2_000_000,
        "Latin-1": "class_names: [background, m\xfcll]\n".encode("latin-1"), "UTF-16": "max_epochs: 1\n".encode("utf-16"),
        "UTF-32": "max_epochs: 1\n".encode("utf-32"), "bytes": bytes(range(256)), "NUL": "max_epochs: 1\0\n", "zeros": bytes(500),
        "an escape": "axcodes: \x1b[31mRAS\n", "a binary file": b"\x89PNG\r\n\x1a\n" + bytes(90), "JSON cut short": '{"max_epochs": 1',
        "a pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0K\x03.", "an unknown tag": "max_epochs: !epochs 3", "object": f"max_epochs: !!python/object/apply:builtins.open [{CANARY}, w]",
        "object by new": f"max_epochs: !!python/object/new:builtins.open [{CANARY}, w]", "name": "max_epochs: !!python/name:os.system",
        "module": "max_epochs: !!python/module:os", "a tuple": "patch_size: !!python/tuple [16, 16, 16]", "a set": "max_epochs: !!set {a, b}",
        "an ordered map": "max_epochs: !!omap [a: 1]", "pairs": "max_epochs: !!pairs [a: 1]", "a float tag": "max_epochs: !!float x",
        "an int tag": "max_epochs: !!int x", "bad base64": "max_epochs: !!binary '%%%'", "an invalid date": "max_epochs: 2020-13-45",
        "base 60": "max_epochs: 1:30", "octal": "max_epochs: 08x", "a huge integer": "max_epochs: " + "9" * 5000,
        "a huge exponent": "max_epochs: 1.0e+99999", "underscores": "max_epochs: 1_0.5_", "a surrogate": 'axcodes: "\\ud800"',
        "one key twice": "max_epochs: 1\nmax_epochs: 2\n", "Windows' end of file": "max_epochs: 1\n\x1a",
    }  # fmt: skip
    told = {"one key twice": "max_epochs", "a surrogate": "axcodes"}
    for name, content in contents.items():
        for command in (
            ("train", "check") if name in ("a list", "an alias bomb", "Latin-1", "a list in itself") else ("train",)
        ):

            def build(place: Place, content: bytes | str = content, command: str = command) -> list[object]:
                bad = place.file("bad.yaml", content)
                if command == "check":
                    return [*place.check(place.material.dataset), "--config", bad]
                return [*place.train(), "--config", bad]

            harmless = name in ("empty", "spaces", "a comment only", "an ordered map")
            yield Case(
                "YAML file", f"{command}: {name}", build, EITHER if harmless else REFUSED,
                () if harmless else (told.get(name, "bad.yaml|max_epochs"),),
            )  # fmt: skip
    fine = {
        "a byte order mark": (b"\xef\xbb\xbfval_interval: 1\n", "UTF-8 with a mark is what Windows' editors write"),
        "Windows' line ends": (b"val_interval: 1\r\nbatch_size: 1\r\n", "either line end is YAML"),
        "a number as 1e-3": (b"optimizer#lr: 1e-3\n", "a number in YAML 1.2"),
        "an anchor": (b"val_interval: &one 1\nbatch_size: *one\n", "aliases within limits are YAML"),
        "JSON in YAML": (b'{"val_interval": 1}\n', "JSON is YAML"),
        "a document mark": (b"---\nval_interval: 1\n...\n", "one document with its markers"),
    }
    for name, (raw, reason) in fine.items():

        def build_fine(place: Place, raw: bytes = raw) -> list[object]:
            return [*place.train(), "--config", place.file("fine.yaml", raw)]

        yield Case("YAML file", name, build_fine, ACCEPTED, (), None, reason)

    def made(make: Callable[[Place], object]) -> Callable[[Place], list[object]]:
        def build(place: Place) -> list[object]:
            make(place)
            return [*place.train(), "--config", place.folder / "bad.yaml"]

        return build

    others: dict[str, Callable[[Place], object]] = {
        "missing": lambda place: None,
        "a folder": lambda place: (place.folder / "bad.yaml").mkdir(),
        "a dangling link": lambda place: (place.folder / "bad.yaml").symlink_to("nowhere.yaml"),
        "a link to itself": lambda place: (place.folder / "bad.yaml").symlink_to("bad.yaml"),
        "a pipe": lambda place: os.mkfifo(place.folder / "bad.yaml"),
        "a device": lambda place: (place.folder / "bad.yaml").symlink_to("/dev/zero"),
        "/dev/null": lambda place: (place.folder / "bad.yaml").symlink_to("/dev/null"),
        "below a file": lambda place: place.file("bad", ""),
    }
    for name, make in others.items():
        yield Case(
            "YAML file", f"is {name}", made(make), EITHER if name == "/dev/null" else REFUSED,
            () if name == "/dev/null" else ("bad.yaml",),
        )  # fmt: skip


def _unknown_keys() -> Iterator[Case]:
    for key in (
        "max_epoch", "maxepochs", "Max_Epochs", "learning_rate", "epochs", "optimiser", "patchsize", "optimizer#lrr",
        "network_def#kernel_sizes", "train#triner", "train#handlers#99", "loss#", "#loss", "loss##weight", "::", "#", " ",
        "", "a b", "max_epochs ", "ünïcode", "$x", "@x", "%x", "_target_", "__class__", "network_def#__class__",
        "train#dataset#dta", "validate#handlers#x", "preprocesing", "lr_scheduler#optimiser", "network_def::wings",
    ):  # fmt: skip
        quoted = key.replace('"', '\\"')
        yield Case(
            "YAML key",
            repr(key),
            with_overlay(f'"{quoted}": 3\n'),
            REFUSED,
            ("bad.yaml|" + (key.strip("# :").replace("::", "#") or "key"),),
        )
