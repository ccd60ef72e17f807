"""Kind "models": files that are quantized from one base, and what each of them costs.

Of each file size and errors of tensors are taken; of each file, text and precision the KL divergence from the base.
`view` says which tables and plots come of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.models.bench import bench as bench
from experiments.models.cases import cases as cases
from experiments.models.settings import Settings
from experiments.models.settings import settings as settings
from experiments.results import Row


def report(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Tables and plots of the view that is asked for."""
    from experiments.models import by_calibration, by_precision, by_type

    views = {"types": by_type.report, "calibration": by_calibration.report, "precision": by_precision.report}
    return views[settings.view](settings, rows, folder)
