"""Commands as SLURM jobs, submitted by submitit.

submitit writes the job script, runs `sbatch`, and requeues a job that reaches its time limit. The job itself runs the
same `segbundle` command, by `torchrun` if it has several GPUs or nodes. A requeued job resumes its run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.errors import ConfigError, OutputError, suggestion

_FOLDER = "slurm"
"""Subfolder of the output folder for job scripts and logs."""
_EXAMPLE = "for instance --slurm partition=gpu,time=24:00:00,gpus_per_node=1"
_NUMBERS = ("nodes", "cpus_per_task", "cpus_per_gpu", "signal_delay_s", "array_parallelism")
_SWITCHES = ("exclusive", "stderr_to_stdout", "use_srun")
_WORDS = ("setup", "teardown", "srun_args")
"""Parameters of submitit that are lists of text."""
_OWN = {
    "ntasks_per_node": "set by segbundle: one task per node starts a process for each GPU. Use gpus_per_node instead.",
    "num_gpus": "a former name. Use gpus_per_node instead.",
    "additional_parameters": "not supported on the command line. Set the SBATCH_* environment variables of sbatch.",
}
"""Parameters of submitit that are refused, with the reason."""
_MOST_REQUEUES = 10
"""Number of times that a job is requeued after its time limit."""
_MOST_RESTARTS = 3
"""Number of times that torchrun replaces failed processes."""
_FIRST_PORT, _NUM_PORTS = 20_000, 20_000
_STOPPING_SECONDS = 60.0
"""Seconds for a command to stop before its job is requeued."""
_KILLED_AFTER = 600.0
"""Seconds in which SLURM ends a job after the signal SIGTERM."""


class Submission(NamedTuple):
    """Command line to be submitted as a SLURM job.

    Attributes:
        parameters: parameters of submitit's `SlurmExecutor`.
        words: command line after `segbundle`, without `--slurm`.

    Example:
        >>> Submission({"time": 60, "nodes": 2, "gpus_per_node": "a100:4"}, ["train", "data"]).num_processes
        8
    """

    parameters: dict[str, Any]
    words: list[str]

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.parameters.get("nodes", 1))

    @property
    def processes_per_node(self) -> int:
        """Number of processes on each node: one per GPU, or one without GPUs."""
        names = ("gpus_per_node", "gpus_per_task", "gres")
        return max([1, *(_num_gpus(name, self.parameters[name]) for name in names if name in self.parameters)])

    @property
    def num_processes(self) -> int:
        """Number of processes on all nodes."""
        return self.nodes * self.processes_per_node


@dataclass(frozen=True)
class SlurmCommand:
    """Commands that a SLURM job runs one after another. submitit stores this object and calls it in the job.

    Args:
        commands: command lines after `segbundle`.
        folder: working directory.
        nodes: number of nodes. Default: 1.
        processes: number of processes on each node. Default: 1.
        resume: whether to add `--resume true` to the commands. Jobs that SLURM has requeued always resume. Default:
            False.

    Raises:
        SystemExit: a command failed (the exit code is that of the command).

    Example:
        >>> command = SlurmCommand([["predict", "ct.nii.gz", "--output_dir", "runs/out"]], ".", resume=True)
        >>> command.command_lines()[0][-6:]
        ['predict', '--resume', 'true', 'ct.nii.gz', '--output_dir', 'runs/out']
    """

    commands: list[list[str]]
    folder: str
    nodes: int = 1
    processes: int = 1
    resume: bool = False

    def __call__(self) -> None:
        terminations: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: terminations.append(number))
        for words, command in zip(self.commands, self.command_lines(), strict=True):
            print(f"segbundle {words[0]}{' --resume true' if self._resumes else ''}", flush=True)
            if code := _run(command, self.folder):
                if terminations or -code == signal.SIGUSR2:
                    time.sleep(_KILLED_AFTER)  # otherwise, SLURM would consider the job as failed, and not requeue it
                sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> Any:
        """Return the submission that submitit stores before it requeues the job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(dataclasses.replace(self, resume=True))

    def command_lines(self) -> list[list[str]]:
        """Return the commands as the job runs them: Python, its options, and the command line of segbundle."""
        return [
            [sys.executable, *self._module(number), *(_resumed(words) if self._resumes else words)]
            for number, words in enumerate(self.commands)
        ]

    def _module(self, number: int) -> list[str]:
        """Return the options of Python that start a command, by torchrun if it has several processes."""
        own = ["-m", "segbundle.cli"]
        if self.nodes * self.processes == 1:
            return own
        options = [f"--nnodes={self.nodes}", f"--nproc_per_node={self.processes}", f"--max_restarts={_MOST_RESTARTS}"]
        meeting = ["--standalone"] if self.nodes == 1 else _rendezvous(number)
        return ["-m", "torch.distributed.run", *options, *meeting, *own]

    @property
    def _resumes(self) -> bool:
        return self.resume or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _resumed(words: Sequence[str]) -> list[str]:
    name, *rest = words
    return [name, *rest] if name == "cross-validate" else [name, "--resume", "true", *rest]


def _rendezvous(number: int) -> list[str]:
    """Return the options of torchrun for the rendezvous of the nodes, on the first node of the job.

    Each command of the job has its own port, because the nodes do not begin with the second command at the same time.
    """
    from submitit.slurm.slurm import SlurmJobEnvironment

    job = SlurmJobEnvironment()
    port = _FIRST_PORT + (2 * int(job.raw_job_id) + number) % _NUM_PORTS
    return [
        *("--rdzv_backend=c10d", f"--rdzv_endpoint={job.hostnames[0]}:{port}"),
        f"--rdzv_id={job.raw_job_id}-{number}",
    ]


def _run(command: Sequence[str], folder: str) -> int:
    """Run a command, and return its exit code. If submitit ends this process, the command is stopped first.

    The command ignores SIGUSR2, which SLURM may send to all processes of the job before the time limit, because
    submitit handles the signal in this process.
    """
    process = subprocess.Popen(command, cwd=folder, preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN))
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOPPING_SECONDS)


def parse_submission(text: str, words: Sequence[str]) -> Submission:
    """Return the submission of a command line with the option `--slurm`.

    Args:
        text: value of the option: parameters as `name=value`, separated by commas.
        words: command line after `segbundle`, with the option.

    Raises:
        ConfigError: `submitit` is not installed, the text is malformed, `time` is missing, or a parameter is unknown or
            has an invalid value.

    Example:
        >>> words = ["train", "--slurm", "time=1:00:00,gpus_per_node=1", "data"]
        >>> parse_submission(words[2], words)  # doctest: +SKIP
        Submission(parameters={'time': 60, 'gpus_per_node': '1'}, words=['train', 'data'])
    """
    known = _submitit().SlurmExecutor._valid_parameters()
    parameters: dict[str, Any] = {}
    for entry in re.split(r",(?=\s*\w+\s*=)", text):  # values may contain commas, as in nodelist=a,b
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not re.fullmatch(r"\w+", name) or not value:
            raise ConfigError(f"--slurm: {entry.strip()!r} is not of the form name=value, {_EXAMPLE}.")
        if name in _OWN:
            raise ConfigError(f"--slurm: {name} is {_OWN[name]}")
        if name not in known:
            raise ConfigError(f"--slurm: unknown parameter {name!r}{suggestion(name, known - set(_OWN))}")
        if name in parameters:
            raise ConfigError(f"--slurm: {name} is given twice. Remove one.")
        parameters[name] = _value(name, value)
    if "time" not in parameters:
        raise ConfigError(f"--slurm: time is missing. Add the maximum duration of the job, {_EXAMPLE}.")
    return Submission(parameters, list(_without_option(words)))


def _without_option(words: Sequence[str]) -> Iterable[str]:
    rest = iter(words)
    for word in rest:
        if word == "--":
            yield from (word, *rest)
        elif word == "--slurm":
            next(rest, None)
        elif not word.startswith("--slurm="):
            yield word


def _value(name: str, text: str) -> Any:
    if name == "time":
        return _minutes(text)
    if name in _NUMBERS:
        if not text.isdecimal() or int(text) == 0:
            raise ConfigError(f"--slurm: {name} is {text!r}; a positive whole number is needed.")
        return int(text)
    if name in _SWITCHES:
        if text.lower() not in ("true", "false") and name != "exclusive":
            raise ConfigError(f"--slurm: {name} is {text!r}; true or false is needed.")
        return {"true": True, "false": None if name == "exclusive" else False}.get(text.lower(), text)
    if name == "srun_args":
        return shlex.split(text)
    if name in ("gpus_per_node", "gpus_per_task", "gres"):
        _num_gpus(name, text)
    return [text] if name in _WORDS else text


def _minutes(text: str) -> int:
    """Return a duration in the formats of `sbatch --time` as minutes, rounded up."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise ConfigError(f"--slurm: time is {text!r}; minutes, hours:minutes:seconds or days-hours is needed.")
    days, first, second, third = (None if group is None else int(group) for group in found.groups())
    if days is None and third is None:  # minutes, or minutes:seconds
        hours, minutes, seconds = 0, first or 0, second or 0
    else:
        hours, minutes, seconds = first or 0, second or 0, third or 0
    total = math.ceil((((days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds) / 60)
    if total == 0:
        raise ConfigError(f"--slurm: time is {text!r}; a duration above 0 is needed.")
    return total


def _num_gpus(name: str, text: str) -> int:
    """Return the number of GPUs in values such as `4`, `a100:4` and, for `gres`, `gpu:a100:4`."""
    if name == "gres" and not text.startswith("gpu"):
        return 0
    number = text.removeprefix("gpu").rpartition(":")[2] if name == "gres" else text.rpartition(":")[2]
    if not number.isdecimal() and not (name == "gres" and text == "gpu"):
        raise ConfigError(f"--slurm: {name} is {text!r}; a number of GPUs is needed, such as 4 or a100:4.")
    return int(number or 1)


def submit(output_dir: Path, submission: Submission) -> str:
    """Submit a command as a SLURM job, print the ID of the job and the path of its log, and return the ID.

    Args:
        output_dir: output folder of the run, on storage that the compute nodes share.
        submission: command and parameters of the job.

    Raises:
        ConfigError: SLURM or submitit is not installed here.
        OutputError: `sbatch` fails, or the job script cannot be written.

    Example:
        >>> submit(Path("runs/mine"), Submission({"time": 60}, ["train", "data"]))  # doctest: +SKIP
        '4711'
    """
    (job,) = _submit(output_dir, [[submission.words]], submission)
    return job


def submit_folds(output_dir: Path, submission: Submission, folds: Sequence[Sequence[list[str]]]) -> None:
    """Submit the folds of a cross-validation as a job array, and a job that combines their scores afterwards.

    Args:
        output_dir: output folder of the cross-validation.
        submission: command that combines the scores, and parameters of the jobs.
        folds: commands of each fold.

    Raises:
        ConfigError: see `submit`.
        OutputError: see `submit`.

    Example:
        >>> submit_folds(Path("runs/cv"), Submission({"time": 60}, ["cross-validate"]), [])  # doctest: +SKIP
    """
    parameters = {**submission.parameters, "nodes": 1}
    if folds:
        array = _submit(output_dir, folds, submission)[0].partition("_")[0]
        parameters["dependency"] = f"afterok:{array}"
    _submit(output_dir, [[submission.words]], submission._replace(parameters=parameters), single=True)


def _submit(
    output_dir: Path, jobs: Sequence[Sequence[list[str]]], submission: Submission, single: bool = False
) -> list[str]:
    """Submit jobs, as an array if there are several, and return their IDs.

    Args:
        output_dir: output folder.
        jobs: command lines of each job.
        submission: parameters of all jobs.
        single: whether the jobs have one process, whatever their GPUs are (default False).
    """
    submitit = _submitit()
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise ConfigError(f"--slurm: {program} is not on the PATH. Submit jobs on a login node of a SLURM cluster.")
    nodes = submission.nodes
    processes = 1 if single else submission.processes_per_node
    commands = [SlurmCommand(list(job), str(Path.cwd()), nodes, processes) for job in jobs]
    additional: dict[str, Any] = {"requeue": True}
    if "dependency" in submission.parameters:
        additional["kill-on-invalid-dep"] = "yes"
    parameters: dict[str, Any] = {
        "job_name": f"segbundle-{submission.words[0]}",
        "wckey": None,
        "stderr_to_stdout": True,
        "ntasks_per_node": 1,
        "srun_args": ["--kill-on-bad-exit=1"] if nodes > 1 else [],
        "additional_parameters": additional,
        **submission.parameters,
    }
    try:
        executor = submitit.SlurmExecutor(output_dir / _FOLDER, max_num_timeout=_MOST_REQUEUES)
        with (
            submitit.helpers.clean_env(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # the error contains the same message
            executor.update_parameters(**parameters)
            submitted = executor.submit_array(commands)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise OutputError(f"--slurm: sbatch failed: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise OutputError(f"{output_dir / _FOLDER}: cannot be written ({error.strerror}).") from error
    for job in submitted:
        print(f"job {job.job_id} submitted; log: {job.paths.stdout}", flush=True)
    return [str(job.job_id) for job in submitted]


def _submitit() -> Any:
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise ConfigError(
            "--slurm needs the package submitit. Install it with: pip install 'segbundle[slurm]'"
        ) from error
    return submitit


def fold_words(
    name: str,
    keys: Mapping[str, Any],
    bundle: Path | None,
    config: Sequence[Path] | None,
    given: Mapping[str, Any],
    words: Sequence[str] | None,
    trust: bool,
) -> list[str]:
    """Return the command line, after `segbundle`, that runs a workflow for one fold of a cross-validation.

    Options with the values None and False are left out.

    Args:
        name: `train` or `evaluate`.
        keys: config keys that the cross-validation sets for the workflow, such as `fold`.
        bundle, config, given, words, trust: arguments of `segbundle.cli.running.run_cross_validation`.

    Example:
        >>> given, words = {"device": None}, ["--max_epochs", "3"]
        >>> fold_words("train", {"fold": 0, "resume": False}, None, [Path("a.yaml")], given, words, False)
        ['train', '--config=a.yaml', '--fold=0', '--max_epochs', '3']
    """
    options = {"bundle": bundle, **given, **keys}
    return [
        name,
        *(f"--config={path}" for path in config or []),
        *(["--trust"] if trust else []),
        *(f"--{key}={value}" for key, value in options.items() if value is not None and not isinstance(value, bool)),
        *(f"--{key}=true" for key, value in options.items() if value is True),
        *(words or []),
    ]
