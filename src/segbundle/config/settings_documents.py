"""Text generated from the list of settings: JSON schema of task files, Markdown table, blocks of the workflows."""

from __future__ import annotations

import textwrap
from typing import Any

from segbundle.config.kinds import Component
from segbundle.config.settings import BY_KEY, SETTINGS, THEMES, Setting

_WIDTH = 120
"""Maximum length of a line in generated YAML."""


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of task files. Editors use the schema to complete and check keys.

    Every value may also be a reference, an expression or a component, and a task may define additional keys.

    Example:
        >>> task_schema()["properties"]["max_epochs"]["anyOf"][0]
        {'type': 'integer', 'minimum': 1}
    """
    later = [{"type": "string", "pattern": "^[@$%]"}, {"type": "object", "required": ["_target_"]}]
    properties = {
        setting.key: {
            **({"description": setting.description} if setting.description else {}),
            "anyOf": [setting.kind.schema(), *later],
        }
        for setting in SETTINGS
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Task of segbundle",
        "type": "object",
        "properties": properties,
    }


def settings_table() -> str:
    """Return a Markdown table of the settings with a description: key, default and meaning.

    Example:
        >>> print(settings_table().splitlines()[2])
        | `bundle_root` |  | folder of the bundle |
    """
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        if setting.description:
            default = f"`{setting.default}`" if setting.default else ""
            default += f" (evaluate, predict: `{setting.inference_default}`)" if setting.inference_default else ""
            lines.append(f"| `{setting.key}` | {default} | {setting.description} |")
    return "\n".join(lines)


_EVERYWHERE = ("max_epochs", "val_interval", "batch_size", "num_workers", "seed", "augmentation")
"""Settings of training that are also in the other workflows: clients set them in all workflows, or a warning needs them
(`segbundle.workflow.warn_about_flips`)."""


def is_in_workflow(setting: Setting, workflow: str) -> bool:
    """Return whether a setting is written into a workflow. A task file may set it for any workflow.

    Args:
        setting: a setting.
        workflow: name of the workflow: `train`, `inference` or `evaluate`. The last two have the same settings.

    Example:
        >>> is_in_workflow(BY_KEY["skip_air"], "train"), is_in_workflow(BY_KEY["skip_air"], "inference")
        (False, True)
    """
    used_by = {"train"} if workflow == "train" else {"evaluate", "predict"}
    return not used_by.isdisjoint(setting.commands) or setting.key in _EVERYWHERE


def workflow_block(workflow: str) -> str:
    """Return the block of `train.yaml` or `inference.yaml` with the settings, their defaults and comments.

    A workflow has the settings that its commands use, and those that clients of the bundle may set in any workflow.
    The block ends with the key `settings`, a mapping of all these settings that components take as one argument.

    Args:
        workflow: name of the workflow, `train` or `inference`.

    Example:
        >>> "axcodes: RAS # orientation of the network's input" in workflow_block("train").splitlines()
        True
    """
    lines, names = [], ["dataset_dir", "output_dir", "ckpt_path", "device"]
    for theme in THEMES:
        for setting in SETTINGS:
            plain = setting.description and not isinstance(setting.kind, Component)
            if setting.theme != theme or not plain or setting.is_machine_specific:
                continue
            if not is_in_workflow(setting, workflow):
                continue
            default = setting.inference_default if workflow == "inference" and setting.inference_default else ""
            default = default or setting.default
            value = f'"@{default}"' if default in BY_KEY else default
            lines.append(_with_comment(f"{setting.key}: {value}", setting.description))
            names.append(setting.key)
    pairs = [f'{name}: "@{name}"' for name in names]
    flow = "{" + ", ".join(pair.replace(" ", "\0") for pair in pairs) + "}"
    mapping = [f"  {line}" for line in textwrap.wrap(flow, _WIDTH - 2, break_long_words=False)]
    return "\n".join([*lines, "settings: # all settings, as one argument of components", *mapping]).replace("\0", " ")


def _with_comment(line: str, comment: str) -> str:
    """Return a line of YAML with a comment, shortened by whole clauses to fit into the line."""
    while len(line) + len(comment) + 3 > _WIDTH and "; " in comment:
        comment = comment.rpartition("; ")[0]
    return f"{line} # {comment}"
