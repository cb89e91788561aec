"""Output folders: names of their files, the record of files that segbundle wrote, and refusing to replace others."""

from segbundle.outputs.folders import OutputFolder, claim, folder_of, look_at, owner_of, refuse_to_replace, resolve

__all__ = ["OutputFolder", "claim", "folder_of", "look_at", "owner_of", "refuse_to_replace", "resolve"]
