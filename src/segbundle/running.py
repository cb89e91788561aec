"""How a command runs one of the bundle's workflows, and how it ends when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from segbundle.audit import refuse_untrusted
from segbundle.documents import read_yaml
from segbundle.errors import ConfigError, SegbundleError, root_error
from segbundle.options import default_bundle, refuse_missing_values, split_overrides
from segbundle.startup import fast_imports


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the errors that users can mend into a message and exit code 1, without a traceback."""
    try:
        yield
    except Exception as error:
        root = root_error(error)
        if isinstance(error, typer.Exit) or not isinstance(root, (SegbundleError, OSError)):
            raise
        typer.echo(f"Error: {root}", err=True)
        raise typer.Exit(1) from None


def run_workflow(
    name: str,
    bundle: Path | None,
    config: list[Path] | None,
    given: dict[str, Any],
    words: list[str] | None,
    words_are: str | None = None,
    trust: bool = False,
) -> None:
    """Run one of the bundle's workflows, as `python -m monai.bundle run` would.

    Args:
        name: of the workflow.
        bundle, config: the bundle's folder and the task YAMLs.
        given: values of the command's own options; None where one was not given.
        words: the rest of the command line.
        words_are: the key that words which are no `--key value` pair belong to, if any do.
        trust: whether to run a bundle and task YAMLs that the audit flags.
    """
    with plain_errors():
        plain, overrides = split_overrides(words or [])
        if plain and words_are is None:
            raise ConfigError(f"unexpected argument {plain[0]!r}; config keys are given as --key value.")
        if words_are is not None and words_are not in overrides:
            if not plain:
                raise ConfigError("name at least one scan or folder of scans.")
            overrides[words_are] = plain
            if not given.get("resume"):
                _begin_reading(plain[0])
        refuse_untrusted(config or [], bundle, trust, overrides)
        configs = (bundle or default_bundle()) / "configs"
        files = [configs / f"{name}.yaml", *(config or [])]
        defaults, *_ = [read_yaml(path) for path in files]
        refuse_missing_values(overrides, defaults)
        chosen = {
            key: str(value) if isinstance(value, Path) else value for key, value in given.items() if value is not None
        }
        workflow = _workflow(files, configs, {**chosen, **overrides})
        try:
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        except KeyboardInterrupt:
            again = {
                "train": " Go on after the last finished epoch with --resume.",
                "inference": " Go on with the scans that are left with --resume.",
            }
            typer.echo(f"Stopped.{again.get(name, '')}", err=True)
            raise typer.Exit(130) from None


def _begin_reading(scan: str) -> None:
    """Read the first scan while everything else is imported."""
    from segbundle.data.early import begin_reading

    begin_reading(scan)


def _workflow(files: list[Path], configs: Path, overrides: dict[str, Any]) -> Any:
    """MONAI's workflow with the overrides laid over it; `monai.bundle run` would drop those that are None."""
    import logging
    import warnings

    for category in (FutureWarning, DeprecationWarning):
        warnings.simplefilter("ignore", category)
    with fast_imports():
        from monai.bundle import ConfigWorkflow, workflows

    workflows.logger.setLevel(logging.ERROR)  # it reports the files that it was given
    return ConfigWorkflow(
        config_file=[str(path) for path in files],
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train" if files[0].stem == "train" else "infer",
        **overrides,
    )
