"""ONNX: a torch network as a file, the same network quantized to INT8, and a runtime session of either.

Needs the optional extra `onnx` (onnx, onnxscript, onnxruntime), which is imported when a function is called.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.errors import ReproError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT = "images"
OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require() -> None:
    """Raise `ReproError`, with the command that installs them, where a package of the extra `onnx` is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ReproError(f"{', '.join(missing)} not installed; run: pip install -e '.[onnx]'")


def export(network: nn.Module, images: Tensor, path: Path) -> Path:
    """Write `network` in evaluation mode as one ONNX file with a free batch size, batch norm folded into convolutions.

    `images`: an example batch (N, C, H, W) with N >= 2. Returns `path`. Raises `ReproError` without the extra.
    """
    require()
    with _quiet():
        torch.onnx.export(
            network.eval(),
            (images,),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    return path


def quantize_int8(source: Path, target: Path, calibration: Sequence[np.ndarray]) -> Path:
    """Write the ONNX network of `source` as INT8 to `target`: static quantization, QDQ format. Returns `target`.

        weights:      int8, symmetric, a step per output channel
        activations:  uint8, a step and zero point per tensor from minimum and maximum over `calibration`

    `calibration`: batches (N, C, H, W), float32. Raises `ValueError` for none, `ReproError` without the extra.
    Source: onnxruntime's static quantization.
    """
    require()
    if not calibration:
        raise ValueError("no calibration images: ranges of activations cannot be set")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    with _quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / source.name
        quant_pre_process(source, prepared)
        quantization.quantize_static(
            prepared,
            target,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
    return target


def session(path: Path, threads: int = 1, optimized: Path | None = None) -> InferenceSession:
    """A session on the CPU with all graph optimisations; the graph that it really runs is written to `optimized`."""
    require()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def interleaved(sessions: Sequence[InferenceSession], images: np.ndarray, rounds: int, warmup: int = 1) -> np.ndarray:
    """Milliseconds that each session takes for the batch `images` in each round: float64 (rounds, sessions).

    In a round all sessions run once, in turn forwards and backwards, so that a drift of the machine meets all alike;
    `warmup` rounds go before and are not counted. Compare by ratios within a round.
    """
    order = list(enumerate(sessions))
    times = np.empty((rounds + warmup, len(sessions)))
    for row in times:
        for column, one in order:
            start = time.perf_counter()
            one.run(None, {INPUT: images})
            row[column] = 1e3 * (time.perf_counter() - start)
        order.reverse()
    return times[warmup:]


def operators(path: Path) -> Counter[str]:
    """How many nodes of each operator an ONNX file has, by its name."""
    require()
    import onnx

    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def int8_convolutions(path: Path) -> float:
    """Share of the convolutions, 0 to 1, that a session of the ONNX file `path` really computes in integers.

    A QDQ file only asks for it: what counts is which of them the runtime has fused to its integer operator.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(path, optimized=optimized)
        counts = operators(optimized)
    integer = counts["QLinearConv"]
    total = integer + sum(count for name, count in counts.items() if name in ("Conv", "FusedConv"))
    return integer / total


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporter and quantizer narrate on standard output, through warnings and through the root logger."""
    root: Any = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
