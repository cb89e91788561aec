"""Output folders: the names of their files, which of them segbundle wrote, and refusing to replace any other."""

from segbundle.outputs.folders import OutputFolder, claim, folder_of, look_at, owner_of, refuse_to_replace, resolve

__all__ = ["OutputFolder", "claim", "folder_of", "look_at", "owner_of", "refuse_to_replace", "resolve"]
