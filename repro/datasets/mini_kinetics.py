"""Mini-Kinetics: 200 classes of human action, as folders of frames or as videos, put under the data root by hand.

    mini_kinetics/train.txt, val.txt     a clip to a line: FOLDER FRAMES CLASS, or VIDEO CLASS; classes count from 0
    mini_kinetics/FOLDER/00001.jpg       frames {:05d}.jpg, counted from 1
    mini_kinetics/VIDEO                  any file that PyAV reads (the extra `video`)

These are the list files and frame folders of Temporal Segment Networks (Wang et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from repro.datasets import files
from repro.errors import ReproError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torchvision.transforms import v2

Split = Literal["train", "val"]
FOLDER = "mini_kinetics"
CLASSES = 200
FRAME = "{:05d}.jpg"
REMEDY = (
    f"put Mini-Kinetics there with its lists train.txt and val.txt, or name the folder that holds {FOLDER} by "
    "--data-root or REPRO_DATA"
)

Pick = Callable[[int], list[int]]
"""Which frames of so many are wanted, in order."""


@dataclass(frozen=True)
class Listed:
    """A line of a list: a video, or a folder of so many frames; and its class."""

    path: Path
    frames: int | None
    label: int


def segments(frames: int, places: Sequence[float]) -> list[int]:
    """One frame out of each of T equal segments, at its place 0 <= p < 1 in the segment: `floor((k + p_k) F / T)`.

    Frames recur where there are fewer than segments. Source: Wang et al. 2016, Temporal Segment Networks.

    >>> segments(12, [0.5] * 4), segments(12, [0.0, 0.9, 0.0, 0.9]), segments(2, [0.5] * 4)
    ([1, 4, 7, 10], [0, 5, 6, 11], [0, 0, 1, 1])
    """
    return [int((k + place) * frames / len(places)) for k, place in enumerate(places)]


class MiniKinetics:
    """One split: item i is (uint8 (T, 3, size, size), class): a frame of each segment, all cut alike.

    Args:
        frames: T, the number of segments; drawn at random in training, each one's centre in a test.
        size: pixels of a side.
        classes: number of classes that the list must name, 0 to `classes` - 1.
        view: what `training_view` is told beside the size.

    Raises `ReproError` with what to do where a list or a file is absent or unreadable, another number of classes is
    listed, or a video is listed and PyAV is not installed.
    """

    def __init__(
        self,
        split: Split,
        frames: int = 8,
        size: int = 224,
        classes: int = CLASSES,
        data_root: Path | str | None = None,
        **view: float,
    ) -> None:
        from repro.datasets.views import central_view, training_view

        self._training_view, self._central_view = training_view(size, **view), central_view(size)
        self.frames = frames
        self.clips = _listed(split, classes, data_root)

    def __len__(self) -> int:
        return len(self.clips)

    def training(self, index: int) -> tuple[Tensor, int]:
        """Item `index`, frames and cut drawn from torch's global generator."""
        import torch

        return self._clip(index, torch.rand(self.frames).tolist(), self._training_view)

    def plain(self, index: int) -> tuple[Tensor, int]:
        """Item `index`, the centre of each segment and of each frame."""
        return self._clip(index, [0.5] * self.frames, self._central_view)

    def _clip(self, index: int, places: Sequence[float], view: v2.Transform) -> tuple[Tensor, int]:
        import numpy as np
        import torch

        listed = self.clips[index]
        try:
            if listed.frames is None:
                read = _read_video(listed.path, lambda frames: segments(frames, places))
            else:
                read = [_read_frame(listed.path / FRAME.format(1 + i)) for i in segments(listed.frames, places)]
            clip = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
        except (OSError, ValueError) as error:
            what = getattr(error, "filename", None) or listed.path
            raise ReproError(f"{what} cannot be read: mend it, or take it out of the list") from error
        return view(clip), listed.label


def find(data_root: Path | str | None = None, report: files.Report = files.quiet, classes: int = CLASSES) -> Path:
    """The folder whose two lists name `classes` classes. Raises `ReproError` with what to do."""
    for split in ("train", "val"):
        _listed(split, classes, data_root)
    return files.root(data_root) / FOLDER


def _listed(split: str, classes: int, data_root: Path | str | None) -> list[Listed]:
    path = files.root(data_root) / FOLDER / f"{split}.txt"
    if not path.is_file():
        raise ReproError(f"Mini-Kinetics is not here: there is no file {path}; {REMEDY}")
    try:
        lines = files.read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ReproError(f"{path} is not UTF-8: convert it") from error
    clips = [_parsed(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    found = {clip.label for clip in clips}
    if found != set(range(classes)):
        raise ReproError(
            f"{path} names {len(found)} classes, and not 0 to {classes - 1}: complete it, or say --set classes=N"
        )
    if any(clip.frames is None for clip in clips):
        _pyav()
    return clips


def _parsed(line: str, path: Path, number: int) -> Listed:
    """Names may hold blanks: a line is read from its end."""
    try:
        *name, frames, label = line.rsplit(maxsplit=2)
        if name and frames.isdigit():
            return Listed(path.parent / name[0], int(frames), int(label))
        return Listed(path.parent / line.rsplit(maxsplit=1)[0], None, int(label))
    except ValueError as error:
        raise ReproError(f"{path}, line {number}: expected FOLDER FRAMES CLASS, or VIDEO CLASS") from error


def _read_frame(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _read_video(path: Path, pick: Pick) -> list[np.ndarray]:
    """The picked frames of a video, each uint8 (H, W, 3). Decodes from its start: most codecs give no other access."""
    av = _pyav()
    with av.open(str(path)) as container:
        count = sum(packet.size > 0 for packet in container.demux(video=0))
    wanted = pick(count)
    found: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24")
            if index == wanted[-1]:
                break
    if not found:
        raise ValueError("no frame")
    return [found[min(index, max(found))] for index in wanted]


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ReproError("videos need PyAV: pip install -e '.[video]', or extract frames") from error
    return av
