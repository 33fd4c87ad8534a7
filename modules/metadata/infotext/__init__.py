"""Infotext: A1111's generation text, written and read.

    a cat
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 1, Size: 512x512, ...

The text is for people and for other programs, and it loses some things (comments, batch size, blanks at the ends of a
prompt's lines); `modules.metadata.recipe` keeps everything.
"""

from __future__ import annotations

from modules.metadata.infotext.keys import KEYS, OTHERS, RESERVED
from modules.metadata.infotext.parse import MAX_LENGTH, pairs, read, unquote, version_number
from modules.metadata.infotext.to_params import FindFile, Paste, find_none, params_from, sampler_and_scheduler
from modules.metadata.infotext.write import quote, write

__all__ = (
    "KEYS",
    "MAX_LENGTH",
    "OTHERS",
    "RESERVED",
    "FindFile",
    "Paste",
    "find_none",
    "pairs",
    "params_from",
    "quote",
    "read",
    "sampler_and_scheduler",
    "unquote",
    "version_number",
    "write",
)
