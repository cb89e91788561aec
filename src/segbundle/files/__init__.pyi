from .output_folders import OutputFolder, claim, folder_of, open_folder, owner_of, refuse_to_replace, resolve

__all__ = ["OutputFolder", "claim", "folder_of", "open_folder", "owner_of", "refuse_to_replace", "resolve"]
