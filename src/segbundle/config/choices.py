"""Literal types of settings with a few values."""

from __future__ import annotations

from typing import Literal

Backend = Literal["eager", "compile", "cudagraph", "openvino"]
"""Inference backend."""
Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""Precision of the network. `auto` is bf16 where it is fast, fp16 for inference on older GPUs, and else fp32."""
CaseNames = Literal["path", "pseudonym"]
"""Names of cases in outputs and messages: those of files and folders, or pseudonyms."""
OutputFormat = Literal["nifti", "nrrd", "dicom_seg", "rtstruct"]
"""File format of predicted label maps."""
