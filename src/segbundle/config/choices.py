"""Types of settings that accept one of a few words."""

from __future__ import annotations

from typing import Literal

Backend = Literal["eager", "compile", "cudagraph", "openvino"]
"""Inference backend."""
Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""Number format of the network; `auto` is bf16 on hardware that is fast with it, else fp32."""
OutputFormat = Literal["nifti", "nrrd", "dicom_seg", "rtstruct"]
"""File format of predicted label maps."""
