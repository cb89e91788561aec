"""Help for the settings of a task. Every command that runs a workflow accepts these as options."""

from __future__ import annotations

from collections.abc import Collection

from segbundle.config.settings import Setting, settings_of

_COMMANDS = {"cross-validate": ("train", "evaluate")}
"""Commands that run other commands."""
_INFERENCE = ("evaluate", "predict")


def settings_by_theme(command: str, shown: Collection[str] = ()) -> dict[str, list[Setting]]:
    """Return the settings that a command takes as options, grouped by the themes of the help.

    Args:
        command: name of the command, such as `train`. Commands without settings have no themes.
        shown: keys to leave out, because the help already lists these keys as options of the command (default: none).

    Example:
        >>> [setting.key for setting in settings_by_theme("predict", ["largest_component"])["Evaluation and output"]]
        ['output_format', 'save_probabilities', 'keep_identifiers']
    """
    found: dict[str, list[Setting]] = {}
    for name in _COMMANDS.get(command, (command,)):
        for theme, settings in settings_of(name).items():
            known = found.setdefault(theme, [])
            known.extend(setting for setting in settings if setting.key not in shown and setting not in known)
    return {theme: settings for theme, settings in found.items() if settings}


def help_lines(command: str, shown: Collection[str] = ()) -> dict[str, list[tuple[str, str]]]:
    """Return the settings that a command takes as options, formatted for click's help formatter.

    Args:
        command: name of the command.
        shown: keys to leave out, see `settings_by_theme`.

    Returns:
        for each theme, a list of pairs (option, description with the default)

    Example:
        >>> help_lines("train", ["device"])["Training"][0]
        ('--max_epochs', 'number of epochs  [default: 40]')
    """

    def described(setting: Setting) -> str:
        default = (command in _INFERENCE and setting.inference_default) or setting.default
        return f"{setting.description}  [default: {default}]" if default else setting.description

    return {
        theme: [(f"--{setting.key}", described(setting)) for setting in settings]
        for theme, settings in settings_by_theme(command, shown).items()
    }
