"""Kind "encoders": are the encoders the C reference's, byte for byte, and what error does each type have?

The vectors hold, for sets of rows, what the reference made of them with and without importance (`S/x`, `S/imatrix`,
`S/TYPE/plain`, `S/TYPE/imatrix`); the project's tests read the same file.
"""

from __future__ import annotations

from experiments.encoders.bench import bench as bench
from experiments.encoders.report import report as report
from experiments.encoders.settings import Settings as Settings
from experiments.encoders.settings import cases as cases
from experiments.encoders.settings import settings as settings
