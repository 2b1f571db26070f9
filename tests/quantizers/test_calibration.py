"""Calibrators: histograms lose nothing, thresholds are those of the plain loops, bad input never gives a zero step."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.quantizers import calibration
from repro.quantizers.calibration import (
    CalibrationError,
    Histogram,
    calibrate,
    calibrator_names,
    calibrators,
    histogram,
    kernels,
    reference,
    register_calibrator,
    unregister_calibrator,
)

METHODS = ("max", "percentile", "entropy", "mse")


def heavy(n: int, seed: int = 0) -> Tensor:
    """Values with outliers: Student's t with 3 degrees of freedom."""
    return torch.from_numpy(np.random.default_rng(seed).standard_t(3, n).astype(np.float32))


def observed(*batches: Tensor, **how: int | bool | None) -> Histogram:
    found = Histogram(**how)  # type: ignore[arg-type]
    for batch in batches:
        found.observe(batch)
    return found


def same(one: Histogram, other: Histogram) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class TestHistogram:
    @pytest.mark.parametrize("signed", [True, False])
    @pytest.mark.parametrize("n", [1, 100, kernels.FEW, kernels.FEW + 1, 50_000])
    def test_equals_the_reference(self, n: int, signed: bool) -> None:
        x = heavy(n)
        counts, width = reference.histogram(x.numpy(), signed=signed)
        found = observed(x, signed=signed)
        assert np.array_equal(found.counts[0].numpy(), counts)
        assert found.width.item() == width
        assert found.largest.item() == (x.abs() if signed else x.clamp(min=0)).max().item()
        assert found.total.item() == n

    def test_zeros_first_leave_the_narrow_bins_to_what_follows(self) -> None:
        assert same(observed(torch.zeros(1), torch.tensor([0.25])), observed(torch.tensor([0.0, 0.25])))

    @given(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
        st.lists(st.integers(0, 40), max_size=5),
        st.randoms(use_true_random=False),
        st.booleans(),
    )
    @settings(max_examples=60)
    def test_does_not_depend_on_batches_or_order(self, values: list, cuts: list, random, signed: bool) -> None:
        whole = observed(torch.tensor(values), signed=signed)
        random.shuffle(values)
        edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
        parts = [torch.tensor(values[a:b]) for a, b in itertools.pairwise(edges)]
        assert same(observed(*parts, signed=signed), whole)

    def test_growing_by_many_doublings_keeps_every_count(self) -> None:
        found = observed(*(heavy(1000, k) * 10.0 ** (k - 4) for k in range(9)))
        assert found.total.item() == 9000
        assert same(found, observed(torch.cat([heavy(1000, k) * 10.0 ** (k - 4) for k in range(9)])))

    def test_counts_beyond_2_to_the_24_are_exact(self) -> None:
        found = observed(torch.ones(1))
        found.counts *= 2**24
        found.observe(torch.ones(1))
        found.observe(torch.tensor([100.0]))
        assert sorted(found.counts[0][found.counts[0] > 0].tolist()) == [1, 2**24 + 1]

    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_per_channel_equals_a_loop_of_per_tensor(self, axis: int) -> None:
        x = heavy(6 * 5 * 7).reshape(6, 5, 7) * torch.arange(1, 7).reshape(6, 1, 1) ** 3
        found = observed(x[:, :, :3], x[:, :, 3:], axis=axis) if axis != -1 else observed(x, axis=axis)
        for channel, values in enumerate(x.movedim(axis, 0)):
            alone = observed(values)
            assert torch.equal(found.counts[channel], alone.counts[0])
            assert found.width[channel] == alone.width[0]

    @pytest.mark.parametrize("signed", [True, False])
    def test_torch_alone_counts_as_the_kernel_does(self, signed: bool) -> None:
        x = heavy(4 * 9000).reshape(4, 9000)
        found = observed(x, signed=signed, axis=0)
        assert torch.equal(found._counted(x, (1 / found.width).float()), found.counts)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_float_types_are_counted(self, dtype: torch.dtype) -> None:
        x = heavy(1000).to(dtype)
        assert same(observed(x), observed(x.float()))

    def test_memory_layout_does_not_matter(self) -> None:
        x = heavy(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
        for other in (x.contiguous(memory_format=torch.channels_last), x.transpose(1, 3), x[:, :, ::1]):
            assert same(observed(other), observed(x))

    def test_a_sample_keeps_the_largest_and_one_run_in_so_many(self) -> None:
        x = heavy(64 * 16 * histogram.RUN)
        sampled, whole = observed(x, every=16), observed(x)
        assert sampled.largest == whole.largest
        assert sampled.total.item() * 16 == whole.total.item()
        shares = [h.counts[0].cumsum(0) / h.total for h in (sampled, whole)]
        assert (shares[0] - shares[1]).abs().max() < 4 / (2 * sampled.total.item() ** 0.5)

    def test_a_sample_moves_on_from_run_to_run(self) -> None:
        """Values that repeat with the group of runs are sampled at every place of it."""
        group = 4 * histogram.RUN
        x = torch.arange(group).float().repeat(4)
        assert len(observed(x, every=4).counts[0].nonzero()) == group

    def test_too_few_values_for_every_place_are_all_counted(self) -> None:
        x = heavy(4 * 4 * histogram.RUN - 1)
        assert torch.equal(observed(x, every=4).counts, observed(x).counts)

    @pytest.mark.parametrize("n", [1000, 5 * 4 * histogram.RUN + 7])
    def test_torch_alone_samples_as_the_kernel_does(self, n: int) -> None:
        x = heavy(n)[None]
        found = observed(x, every=4)
        assert torch.equal(found._counted(found._sample(x), (1 / found.width).float()), found.counts)

    def test_state_makes_the_same_histogram(self) -> None:
        found = observed(heavy(100))
        assert same(Histogram.of(found.state_dict(), signed=True), found)

    @pytest.mark.parametrize("how", [{"bins": 100}, {"bins": 1}, {"every": 0}, {"every": 2, "axis": 0}])
    def test_bad_arguments(self, how: dict) -> None:
        with pytest.raises(ValueError, match="="):
            Histogram(**how)


def fixed_histograms() -> dict[str, np.ndarray]:
    """Counts of 512 bins: smooth, with outliers, sparse, with a spike at zero, with gaps, uniform."""
    random, j = np.random.default_rng(7), np.arange(512)
    counts = {
        "normal": np.rint(1e6 * np.exp(-((j / 150) ** 2))),
        "laplace": np.rint(1e5 * np.exp(-j / 40)) + 1,
        "outliers": np.rint(1e5 * np.exp(-j / 20)) + (j % 97 == 96),
        "sparse": (random.random(512) < 0.03) * random.integers(1, 4, 512),
        "spike": np.where(j == 0, 10**7, np.rint(1e4 * np.exp(-j / 100)) + 1),
        "gaps": np.where(j % 7 < 3, random.integers(1, 1000, 512), 0),
        "uniform": np.full(512, 12),
    }
    for one in counts.values():
        one[511] = max(one[511], 1)
    return {name: one.astype(np.int64) for name, one in counts.items()}


def as_histogram(counts: np.ndarray, width: float = 1.0, signed: bool = True) -> tuple[Histogram, float]:
    """A histogram with these counts, and its largest value: somewhere within the last bin in use."""
    largest = (np.flatnonzero(counts)[-1] + 0.75) * width
    state = {
        "counts": torch.from_numpy(counts)[None],
        "largest": torch.tensor([largest], dtype=torch.float64),
        "exponent": torch.tensor([int(np.log2(width))]),
    }
    return Histogram.of(state, signed=signed), largest


class TestThresholds:
    @pytest.mark.parametrize("name", fixed_histograms())
    @pytest.mark.parametrize("levels", [2, 4, 8, 32, 128])
    def test_entropy_is_that_of_the_plain_loop(self, name: str, levels: int) -> None:
        counts = fixed_histograms()[name]
        kept = int(kernels.entropy(counts[None], levels)[0])
        _, largest = as_histogram(counts)
        expected = reference.entropy(counts, 1.0, largest, levels)
        assert (min(kept + 0.5, largest) if kept else largest) == expected

    def test_divergence_of_the_slides_example(self) -> None:
        """Bins 1 0 2 3 5 3 1 7 in two levels are 6/3 each in the occupied bins, then 16/4."""
        p = np.array([1, 2, 3, 5, 3, 1, 7]) / 22
        q = np.array([2, 2, 2, 4, 4, 4, 4]) / 22
        assert reference.kl_divergence([1, 0, 2, 3, 5, 3, 1, 7], 8, 2) == pytest.approx(np.sum(p * np.log(p / q)))

    def test_outliers_go_to_the_last_bin_of_p_alone(self) -> None:
        p, q = np.array([4, 3]) / 7, np.array([4, 2]) / 6
        assert reference.kl_divergence([4, 2, 0, 1], 2, 2) == pytest.approx(np.sum(p * np.log(p / q)))

    def test_an_empty_last_bin_is_no_candidate(self) -> None:
        assert reference.kl_divergence([4, 0, 1], 2, 2) == np.inf

    @pytest.mark.parametrize("name", fixed_histograms())
    @pytest.mark.parametrize("bits", [2, 4, 8])
    @pytest.mark.parametrize("signed", [True, False])
    def test_mse_is_that_of_the_plain_loop(self, name: str, bits: int, signed: bool) -> None:
        counts = fixed_histograms()[name]
        found, largest = as_histogram(counts, 0.25, signed)
        q = 2 ** (bits - signed) - 1
        assert calibrate(found, "mse", bits=bits, signed=signed).upper == reference.squared_error(
            counts, 0.25, largest, q
        )

    @pytest.mark.parametrize("name", fixed_histograms())
    @pytest.mark.parametrize("percent", [1e-3, 50, 99, 99.99, 100])
    def test_percentile_is_that_of_the_plain_loop(self, name: str, percent: float) -> None:
        counts = fixed_histograms()[name]
        found, largest = as_histogram(counts, 2.0)
        assert calibrate(found, "percentile", percent=percent).upper == reference.percentile(
            counts, 2.0, largest, percent
        )

    @pytest.mark.parametrize("percent", [50, 99, 99.9])
    def test_percentile_is_the_sorted_value_to_one_bin(self, percent: float) -> None:
        """An observer that converts bins with the wrong width is off by a factor."""
        x = heavy(30_000)
        exact = x.abs().sort().values[int(np.ceil(30_000 * percent / 100)) - 1].item()
        found = observed(x)
        assert exact <= calibrate(found, "percentile", percent=percent).upper <= exact + found.width.item()

    def test_mse_is_least_on_the_values_themselves(self) -> None:
        x = heavy(20_000).double()
        found = calibrate(x, "mse", bits=4)

        def error(upper: float) -> float:
            step = upper / 7
            return float(((x.clamp(-upper, upper) / step).round() * step - x).square().sum())

        candidates = x.abs().max().item() * np.arange(1, 129) / 128
        assert error(found.upper) <= 1.001 * min(error(upper) for upper in candidates)

    def test_reference_imports_nothing_of_what_it_judges(self) -> None:
        source = inspect.getsource(reference)
        assert "import torch" not in source
        assert "repro" not in source.replace("reference", "")


class TestRanges:
    @pytest.mark.parametrize("bits", range(2, 9))
    @pytest.mark.parametrize("signed", [True, False])
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_width_and_sign(self, method: str, bits: int, signed: bool) -> None:
        x = heavy(5000)
        step, lower, upper = calibrate(x, method, bits=bits, signed=signed)
        largest = (x.abs() if signed else x).max().item()
        assert 0 < upper <= largest
        assert lower == (-upper if signed else 0)
        assert upper / step == pytest.approx(2 ** (bits - 1) - 1 if signed else 2**bits - 1)

    @pytest.mark.usefixtures("two_threads")
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("channels", [8, calibrators.CHANNELS + 1])
    def test_per_channel_equals_a_loop_of_per_tensor(self, method: str, channels: int) -> None:
        x = heavy(channels * 300).reshape(channels, 300) * torch.logspace(-2, 2, channels)[:, None]
        together = calibrate(x, method, bits=4, axis=0)
        assert len(together.step) == channels
        for channel, values in enumerate(x):
            assert [p[channel] for p in together] == list(calibrate(values, method, bits=4))

    @given(st.integers(0, 2**32), st.floats(50, 100), st.floats(50, 100))
    @settings(max_examples=25)
    def test_max_is_at_least_percentile_which_grows(self, seed: int, one: float, other: float) -> None:
        found = observed(heavy(2000, seed))
        low, high = (calibrate(found, "percentile", percent=p).upper for p in sorted((one, other)))
        assert low <= high <= calibrate(found, "max").upper

    @pytest.mark.parametrize("method", METHODS)
    def test_scaling_by_a_power_of_two_scales_the_range(self, method: str) -> None:
        x = heavy(3000)
        assert calibrate(x * 8, method, bits=5).upper == 8 * calibrate(x, method, bits=5).upper

    def test_entropy_clips_outliers_and_leaves_a_flat_tensor_alone(self) -> None:
        flat = torch.linspace(-1, 1, 100_001)
        assert calibrate(flat, "entropy").upper == pytest.approx(1, abs=1e-3)
        spiked = torch.cat([flat, torch.tensor([20.0])])
        assert calibrate(spiked, "entropy", bits=4).upper < 2

    def test_entropy_has_a_choice(self) -> None:
        """A KL calibrator whose bins leave one candidate threshold is `max` by another name: such bins are refused."""
        with pytest.raises(CalibrationError, match=r"bins=128: too few .* give at least 512"):
            calibrate(observed(heavy(100), bins=128), "entropy")
        for bits, signed in itertools.product(range(2, 9), (True, False)):
            kept = observed(heavy(10_000), signed=signed).counts[0].nonzero().max().item() + 1
            assert kept - calibration.Grid(bits, signed).levels > 500

    def test_zeros_behind_a_relu_do_not_pull_the_threshold_down(self) -> None:
        x = torch.from_numpy(np.random.default_rng(1).uniform(0, 6, 50_000).astype(np.float32))
        rectified = torch.cat([x, torch.zeros(200_000)])
        assert calibrate(rectified, "entropy", signed=False).upper > 5.9
        assert calibrate(rectified, "entropy", signed=False, zeros="kept").upper < 2

    def test_a_registered_calibrator_is_one_function(self) -> None:
        @register_calibrator("rms")
        def rms(found: Histogram, grid: calibration.Grid, times: float = 3.0) -> np.ndarray:
            counts, width, _ = found.numpy()
            x = (np.arange(found.bins) + 0.5) * width[:, None]
            return times * np.sqrt((counts * x**2).sum(1) / counts.sum(1))

        try:
            assert calibrator_names()[:4] == METHODS
            assert calibrate(torch.randn(1000, generator=torch.manual_seed(0)), "rms").upper == pytest.approx(
                3, rel=0.1
            )
            with pytest.raises(ValueError, match="exists already"):
                register_calibrator("rms")(rms)
        finally:
            unregister_calibrator("rms")


class TestBadInput:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("signed", [True, False])
    def test_constants_get_their_magnitude_and_zeros_one(self, method: str, signed: bool) -> None:
        for value in (3.7, 1e-20, 1e30):
            upper = calibrate(torch.full((9,), value), method, signed=signed).upper
            assert upper == pytest.approx(value, rel=1e-6)
        assert calibrate(torch.zeros(9), method, signed=signed).upper == 1
        assert calibrate(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), method, axis=0).upper.tolist() == [1, 2]

    @pytest.mark.parametrize("method", METHODS)
    def test_negative_values_without_sign_are_zeros(self, method: str) -> None:
        assert calibrate(-torch.rand(9), method, signed=False).upper == 1

    @pytest.mark.parametrize("method", METHODS)
    def test_a_single_value(self, method: str) -> None:
        assert calibrate(torch.tensor(-0.3), method).upper == pytest.approx(0.3)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_is_an_error_and_changes_nothing(self, bad: float) -> None:
        found = observed(heavy(10))
        before = found.counts.clone()
        with pytest.raises(CalibrationError, match="1 of 3 values are NaN or infinite"):
            found.observe(torch.tensor([1.0, bad, 1e9]))
        assert torch.equal(found.counts, before)
        with pytest.raises(CalibrationError, match="1 of 4 values"):
            calibrate(torch.tensor([[1.0, 2.0], [bad, 1.0]]), axis=0)

    def test_empty_batches_change_nothing_and_nothing_else_is_an_error(self) -> None:
        found = observed(torch.empty(0), heavy(10), torch.empty(0, 3))
        assert same(found, observed(heavy(10)))
        with pytest.raises(CalibrationError, match="no values were observed"):
            calibrate(observed(torch.empty(0)))

    def test_a_step_that_is_no_float32_is_an_error(self) -> None:
        with pytest.raises(CalibrationError, match="step must be positive"):
            calibrate(torch.tensor([1e-45]), "max")

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ({"bits": 1}, "bits=1: give a width from 2 to 8"),
            ({"bits": 9}, "bits=9"),
            ({"bits": 4.0}, r"bits=4\.0"),
            ({"method": "mse", "candidates": 0}, "candidates=0: give 1 or more"),
            ({"method": "entrpy"}, "'entrpy': did you mean entropy"),
            ({"method": "percentile", "percent": 0}, "percent=0"),
            ({"method": "percentile", "percent": 101}, "percent=101"),
            ({"method": "entropy", "zeros": "kep"}, "did you mean kept"),
            ({"axis": 3}, "axis=3 does not exist"),
        ],
    )
    def test_bad_requests(self, how: dict, words: str) -> None:
        with pytest.raises(CalibrationError, match=words):
            calibrate(torch.ones(4), **how)

    def test_a_histogram_of_the_other_sign_or_of_other_channels(self) -> None:
        with pytest.raises(CalibrationError, match="taken with signed=True"):
            calibrate(observed(heavy(5)), signed=False)
        with pytest.raises(CalibrationError, match="3 channels where earlier batches had 2"):
            observed(torch.ones(2, 2), torch.ones(3, 2), axis=0)

    @pytest.mark.parametrize(("bad", "words"), [(torch.ones(3, dtype=torch.int64), "int64"), ([1.0], "list")])
    def test_only_floating_point_tensors_are_taken(self, bad: Tensor, words: str) -> None:
        with pytest.raises(TypeError, match=words):
            observed(bad)
