"""Names that an expression may use: functions of Python, NumPy and PyTorch that only compute or read."""

from __future__ import annotations


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


def _within(module: str, *lines: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in _words(*lines))


MODULES = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}
"""Names that MONAI defines in every expression, and the modules that they refer to."""

BUILTINS = _words(
    "abs all any bool bytes complex dict divmod enumerate filter float frozenset int isinstance len list map max min "
    "next range reversed round set slice sorted str sum tuple zip True False None"
)

ATTRIBUTES = _words(
    # networks, engines, handlers, datasets
    "add_event_handler add_module amp apply batch batch_size buffers children cpu cuda data dataset dataloader detach "
    "device double dtype epoch epoch_length eval float half image item iteration key_metric_name label "
    "logger long max_epochs max_iters meta metric_details metrics module modules "
    "named_buffers named_children named_modules named_parameters network numpy optimizer output param_groups "
    "parameters pred requires_grad requires_grad_ run sampler setLevel set_atss_matcher set_box_selector_parameters "
    "set_epoch set_hard_negative_sampler set_random_state set_sliding_window_inferer set_target_keys set_timesteps "
    "set_trainer state state_dict step strides to tolist train transform transforms zero_grad",
    # tensors and arrays
    "abs all amax amin any argmax argmin astype bool clamp clip clone contiguous cumsum exp expand fill flatten "
    "float16 float32 float64 gt int log lt max mean min mul ndim new_tensor nonzero permute prod repeat reshape round "
    "shape size softmax sigmoid sort sqrt squeeze std sub sum transpose unsqueeze var view",
    # text, lists, mappings
    "append capitalize casefold copy count endswith extend get index insert isdigit items join keys lower lstrip "
    "partition pop removeprefix removesuffix reverse rpartition rsplit rstrip setdefault split splitlines "
    "startswith strip title union update upper values zfill",
    # paths and times
    "absolute anchor as_posix day exists glob hour is_absolute is_dir is_file isoformat iterdir joinpath minute mkdir "
    "month name now parent parents parts relative_to resolve rglob second stem strftime suffix suffixes "
    "timestamp today with_name with_stem with_suffix year",
)
"""Attributes of a value that an expression may read or call. Attributes of modules are checked by their full name."""

NAMES = (
    _within(
        "os.path",
        "abspath basename commonpath commonprefix dirname exists expanduser isabs isdir isfile islink join lexists "
        "normcase normpath realpath relpath samefile sep split splitdrive splitext",
    )
    | _within("os", "cpu_count fspath getcwd listdir makedirs sep")
    | _within("glob", "escape glob iglob")
    | _within("pathlib", "Path PosixPath PurePath PurePosixPath")
    | _within("json", "dumps loads")
    | _within("copy", "copy deepcopy")
    | _within("functools", "partial reduce")
    | _within("itertools", "accumulate chain combinations cycle groupby islice permutations product repeat zip_longest")
    | _within("collections", "Counter OrderedDict defaultdict deque")
    | _within("datetime", "date datetime timedelta timezone")
    | _within("random", "choice choices randint random sample seed shuffle uniform")
    | _within("re", "findall match search split sub")
    | _within("logging", "CRITICAL DEBUG ERROR INFO WARNING getLogger")
    | _within(
        "math",
        "acos asin atan atan2 ceil comb cos degrees e exp factorial floor fsum gcd hypot inf isclose isfinite isinf "
        "isnan lcm log log10 log1p log2 nan perm pi prod radians sin sqrt tan tau trunc",
    )
    | _within(
        "numpy",
        "abs all any arange argmax argmin array asarray bool_ ceil clip concatenate cos cumsum diag dot e equal exp "
        "expand_dims eye flip float16 float32 float64 floor full hstack inf int16 int32 int64 int8 isfinite isnan "
        "linalg.norm linspace log log10 log2 logical_and logical_not logical_or max maximum mean median meshgrid min "
        "minimum moveaxis nan nan_to_num ndarray newaxis ones ones_like percentile pi prod quantile repeat reshape "
        "round sin sort split sqrt squeeze stack std sum swapaxes tile transpose uint16 uint32 uint64 uint8 unique "
        "vstack where zeros zeros_like random.normal random.rand random.randint random.seed random.uniform",
    )
    | _within(
        "torch",
        "BoolTensor FloatTensor Generator IntTensor LongTensor Size Tensor abs all amax amin any arange argmax argmin "
        "as_tensor bfloat16 bool cat ceil channels_last channels_last_3d clamp contiguous_format device double exp eye "
        "float float16 float32 float64 floor flip from_numpy full full_like get_default_dtype half int int16 int32 "
        "int64 int8 isfinite isnan linspace log logical_and logical_not logical_or long manual_seed max mean median "
        "min movedim nan_to_num no_grad ones ones_like permute prod rand randint randn randperm round "
        "set_default_dtype set_float32_matmul_precision set_num_threads short sigmoid softmax sqrt squeeze stack std "
        "strided sum tanh tensor tile topk transpose uint8 unique unsqueeze where zeros zeros_like",
    )
    | _within(
        "torch.cuda",
        "current_device device_count empty_cache get_device_name get_device_properties is_available manual_seed "
        "manual_seed_all set_device synchronize",
    )
    | _within(
        "torch.distributed",
        "barrier destroy_process_group get_rank get_world_size init_process_group is_available is_initialized "
        "is_nccl_available",
    )
    | _within("torch.multiprocessing", "set_sharing_strategy set_start_method")
    | _within("torch.backends.mps", "is_available is_built")
    | _within("ignite.distributed", "get_local_rank get_rank get_world_size")
)
"""Dotted names that an expression may use, in addition to the components that a `_target_` may name."""

PASSED_THROUGH = frozenset(name.rpartition(".")[0] for name in NAMES) | {"torch.backends"}
"""Modules that contain harmless names."""

IMPORTS = _words(
    "collections copy datetime functools glob itertools json logging math os os.path pathlib random re numpy torch "
    "monai ignite segbundle torch.distributed torch.multiprocessing torch.cuda torch.backends.cudnn torch.backends "
    "torch.utils torch.utils.data ignite.distributed"
)
"""Modules that an expression may import. Each use of their contents is checked by its full name."""

SWITCHES = frozenset({"allow_tf32", "benchmark", "deterministic", "enabled"})
SWITCHBOARDS = frozenset({"torch.backends.cudnn", "torch.backends.cuda.matmul"})
"""Modules of PyTorch whose attributes in `SWITCHES` may be set by `setattr`."""

ENVIRONMENT = frozenset({"LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"})
"""Environment variables that an expression may read, set by `torchrun`."""
