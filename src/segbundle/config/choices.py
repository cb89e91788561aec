"""Settings that are one of a few words."""

from __future__ import annotations

from typing import Literal

Backend = Literal["eager", "compile", "cudagraph", "openvino"]
"""Program that runs the network."""
Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""Number format that the network computes in; `auto` is bf16 where the hardware is fast with it, else fp32."""
