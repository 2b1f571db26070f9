"""Mini-Kinetics in its real layouts, made small: frame folders and videos, segments, and what is said without them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import datasets
from repro.datasets import mini_kinetics
from repro.datasets.mini_kinetics import MiniKinetics
from repro.errors import ReproError
from repro.training.streams import torch_seeded
from tests.datasets import made_up


def test_a_clip_is_one_frame_of_each_segment(tmp_path: Path) -> None:
    """Six frames in three segments: the centres are frames 1, 3 and 5; a random draw takes one of each pair."""
    data = MiniKinetics("val", frames=3, size=32, classes=3, data_root=made_up.mini_kinetics(tmp_path))
    clip, label = data.plain(5)
    assert (clip.dtype, clip.shape, label) == (torch.uint8, (3, 3, 32, 32), 2)
    assert shades(clip) == [1, 3, 5]
    drawn = set()
    for step in range(20):
        with torch_seeded(0, "augmentation", step):
            drawn.add(tuple(shades(data.training(0)[0])))
    assert len(drawn) > 3
    assert all(a in (0, 1) and b in (2, 3) and c in (4, 5) for a, b, c in drawn)


def shades(clip: torch.Tensor) -> list[int]:
    return [round(frame.float().mean().item() / 20) for frame in clip]


def test_all_frames_of_a_clip_are_cut_alike(tmp_path: Path) -> None:
    """Every frame is the same gradient: cut alike they stay equal."""
    from PIL import Image

    data = MiniKinetics("train", frames=3, size=16, classes=3, data_root=made_up.mini_kinetics(tmp_path))
    for path in data.clips[0].path.iterdir():
        Image.fromarray(np.add.outer(np.arange(40), 3 * np.arange(48)).astype(np.uint8)).save(path)
    clip, _ = data.training(0)
    assert torch.equal(clip[0], clip[1])
    assert torch.equal(clip[0], clip[2])
    assert clip[0].float().std() > 1


def test_a_video_gives_the_frames_that_its_folder_would(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="the extra `video` is not installed")
    root = made_up.mini_kinetics(tmp_path, classes=1) / "mini_kinetics"
    with av.open(str(root / "a clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 48
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 48, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (root / "val.txt").write_text("a clip.mp4 0\n")
    clip, label = MiniKinetics("val", frames=3, size=32, classes=1, data_root=tmp_path).plain(0)
    assert (shades(clip), label) == ([1, 3, 5], 0)
    (root / "a clip.mp4").write_bytes(b"no video")
    with pytest.raises(ReproError, match=r"a clip\.mp4 cannot be read: mend it"):
        MiniKinetics("val", frames=3, size=32, classes=1, data_root=tmp_path).plain(0)


def test_without_pyav_a_list_of_videos_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    root = made_up.mini_kinetics(tmp_path, classes=1)
    assert len(MiniKinetics("val", classes=1, data_root=root)) == 2
    (root / "mini_kinetics/val.txt").write_text("a.mp4 0\n")
    with pytest.raises(ReproError, match=r"videos need PyAV: pip install -e '\.\[video\]', or extract frames"):
        MiniKinetics("val", classes=1, data_root=root)


def test_absent_or_incomplete_it_says_in_a_line_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=r"Mini-Kinetics is not here: there is no file .*train\.txt; put "):
        datasets.fetch("mini_kinetics", tmp_path)
    made_up.mini_kinetics(tmp_path)
    with pytest.raises(ReproError, match=r"train\.txt names 3 classes, and not 0 to 199: complete it"):
        datasets.fetch("mini_kinetics", tmp_path)
    assert mini_kinetics.find(tmp_path, classes=3) == tmp_path / "mini_kinetics"
    (tmp_path / "mini_kinetics/frames/class 0/val0/00002.jpg").unlink()
    with pytest.raises(ReproError, match=r"00002\.jpg cannot be read: mend it"):
        MiniKinetics("val", frames=3, classes=3, data_root=tmp_path).plain(0)
    for line in ("folder six", "folder"):
        (tmp_path / "mini_kinetics/val.txt").write_text(f"{line}\n")
        with pytest.raises(ReproError, match=r"val\.txt, line 1: expected FOLDER FRAMES CLASS, or VIDEO CLASS"):
            MiniKinetics("val", classes=3, data_root=tmp_path)
    (tmp_path / "mini_kinetics/val.txt").write_bytes("caf\u00e9 8 0\n".encode("latin-1"))
    with pytest.raises(ReproError, match=r"val\.txt is not UTF-8: convert it"):
        MiniKinetics("val", classes=3, data_root=tmp_path)
