"""Base64 as the wire has it: standard alphabet, padded, and nothing besides.

By a library that uses the processor's vector instructions: Python's own takes as long
for a large payload as the encryption does.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from pybase64 import b64decode, b64encode, b64encode_as_string

__all__ = ["decode_base64", "encode_base64", "encode_base64_text"]

# Not functions of Python's own, whose calls would cost more than what they do.

decode_base64: Final = partial(b64decode, validate=True)
"""Gives the bytes. Raises ValueError for what is no base64, and TypeError for what is no text."""

encode_base64: Final = b64encode
"""Gives base64 as bytes."""

encode_base64_text: Final = b64encode_as_string
"""Gives base64 as text."""
