"""What the host says."""

from __future__ import annotations

import logging
import warnings


def quiet_host() -> None:
    """Leaves only warnings that a user can act on: the host speaks of telemetry, optional parts and its own defaults."""
    import nemo.utils  # noqa: F401  (sets its logger's level when it is loaded)

    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
    # an error to the host, on every cluster: it looks for SLURM where this Lightning does not keep it
    logging.getLogger("nemo_logger").addFilter(lambda said: "without SLURM handling" not in said.getMessage())
    for name in ("hydra.utils", "nv_one_logger", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "hydra.utils" else logging.ERROR)
    warnings.filterwarnings("ignore", module="(lightning|nemo)")
