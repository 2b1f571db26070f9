"""Post-training calibration: the range of a quantizer from data, per tensor or per channel, at 2 to 8 bits.

A `Histogram` observes batches and forgets them; `calibrate` finds the range by `max`, `percentile`, `entropy` or `mse`,
or by whatever `register_calibrator` added. `reference` holds the same in NumPy, for comparison.
"""

from repro.quantizers.calibration.calibrators import (
    Grid,
    Range,
    calibrate,
    calibrator_names,
    register_calibrator,
    unregister_calibrator,
)
from repro.quantizers.calibration.histogram import BINS, CalibrationError, Histogram

__all__ = [
    "BINS",
    "CalibrationError",
    "Grid",
    "Histogram",
    "Range",
    "calibrate",
    "calibrator_names",
    "register_calibrator",
    "unregister_calibrator",
]
