"""`fake_quantize` under torch.compile and torch.export: one graph, the same numbers, and which path ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.profiler import profile

import backends
from backends import BackendUnavailableError, Scaler, eager, fused, operator
from backends.autograd import fake_quantize
from backends.contract import UnknownNameError, register_scaler, unregister_scaler
from tests.backends.cases import assert_equal, no_cuda, plain
from tests.strategies import grid, specials, tie_grid

OPERATOR = "backends::fake_quantize"
ROUND = "aten::round"
EWGS = ("ewgs", 0.1, None, "printed")
SETTING = grid(4, signed=True, step=0.1)


@pytest.fixture(autouse=True)
def forget_compiled() -> None:
    torch._dynamo.reset()


def data() -> Tensor:
    """Ties, their neighbours and special values, six channels."""
    x = np.concatenate([tie_grid(SETTING), specials(SETTING)])
    return torch.from_numpy(x[: len(x) // 6 * 6].reshape(-1, 6))


def parameter(value: float, axis: int | None) -> Tensor:
    return torch.full(() if axis is None else (6,), value, requires_grad=True)


def run(function: Callable, x: Tensor, *parameters: Any, **options: Any) -> list[np.ndarray]:
    """Values, then gradients of x and of the parameters that are tensors."""
    leaves = [x.clone().requires_grad_()]
    leaves += [p.detach().clone().requires_grad_() for p in parameters if isinstance(p, Tensor)]
    own = iter(leaves[1:])
    given = [next(own) if isinstance(p, Tensor) else p for p in parameters]
    y = function(leaves[0], *given, **options)
    y.backward(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.dtype))
    arrays = [y.detach(), *(leaf.grad for leaf in leaves)]
    return [plain(array.float() if array.dtype == torch.bfloat16 else array) for array in arrays]


def assert_compiled_equals_eager(
    backend: str | None, parameters: tuple, ran: set[str], how: str = "aot_eager", **options: Any
) -> None:
    """Bit for bit; `ran` says which of the two operators, the custom one and rounding, run once compiled."""
    options |= {"backend": backend, "scaler": Scaler(*EWGS)}
    compiled = torch.compile(fake_quantize, fullgraph=True, backend=how)
    for one, other in zip(
        run(compiled, data(), *parameters, **options), run(fake_quantize, data(), *parameters, **options), strict=True
    ):
        assert_equal(one, other)
    with profile() as profiled:
        run(compiled, data(), *parameters, **options)
    assert {event.name for event in profiled.events()} & {OPERATOR, ROUND} == ran


@no_cuda
def test_a_graph_on_a_gpu_holds_the_operator_whatever_the_backend() -> None:
    """Inductor's division would be an approximation (Q1)."""
    x = torch.linspace(-1, 1, 1000, device="cuda")
    compiled = torch.compile(lambda x: fake_quantize(x, 0.1, -0.8, 0.7, scaler=Scaler("ste"), backend="eager"))
    with profile() as profiled:
        y = compiled(x)
    assert OPERATOR in {event.name for event in profiled.events()}
    assert torch.equal(y, fake_quantize(x, 0.1, -0.8, 0.7, scaler=Scaler("ste"), backend="eager"))


class TestCompile:
    """`fullgraph=True` raises at a graph break; "aot_eager" runs the traced operations one by one."""

    @pytest.mark.parametrize(("backend", "ran"), [("eager", {ROUND}), ("fused", {OPERATOR})])
    @pytest.mark.parametrize("axis", [None, 1])
    def test_same_numbers_as_eager(self, backend: str, ran: set[str], axis: int | None) -> None:
        parameters = tuple(parameter(value, axis) for value in SETTING.parameters)
        assert_compiled_equals_eager(backend, parameters, ran, axis=axis)

    @pytest.mark.parametrize(("backend", "ran"), [("eager", {ROUND}), ("fused", {OPERATOR})])
    def test_numbers_and_tensors_mixed(self, backend: str, ran: set[str]) -> None:
        parameters = (SETTING.step, SETTING.lower, parameter(SETTING.upper, axis=1))
        assert_compiled_equals_eager(backend, parameters, ran, axis=1)

    def test_another_shape_needs_no_graph_break(self) -> None:
        compiled = torch.compile(fake_quantize, fullgraph=True, backend="aot_eager", dynamic=True)
        for rows in (3, 5, 7):
            x = torch.linspace(-1, 1, 2 * rows).reshape(rows, 2)
            y = compiled(x, *SETTING.parameters, scaler=Scaler("ste"))
            assert torch.equal(y, fake_quantize(x, *SETTING.parameters, scaler=Scaler("ste")))

    def test_S4_noise(self) -> None:
        x, noise = torch.tensor([0.3, -0.4], requires_grad=True), torch.tensor([0.5, -0.5])
        scaler = Scaler("uniform_noise", delta=0.5)
        compiled = torch.compile(fake_quantize, fullgraph=True, backend="aot_eager")
        compiled(x, 0.5, -1.0, 1.0, scaler=scaler, noise=noise, backend="eager").sum().backward()
        assert x.grad.tolist() == [1.25, 0.75]

    def test_Q6_numbers_are_checked_when_traced(self) -> None:
        compiled = torch.compile(fake_quantize, fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match=r"step must be positive and finite in float32, got step=0\.0"):
            compiled(torch.ones(2), 0.0, -1.0, 1.0, scaler=Scaler("ste"))

    def test_inductor_fuses_the_eager_path_and_keeps_its_numbers(self) -> None:
        with torch._inductor.config.patch(compile_threads=1, fx_graph_cache=False):
            parameters = (SETTING.step, SETTING.lower, SETTING.upper)
            assert_compiled_equals_eager("eager", parameters, ran=set(), how="inductor")


class TestAutomaticChoice:
    """Nobody names one: fused where it computes the dtype and the scaler, else eager. A named one never yields."""

    @pytest.fixture
    def ran(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the backends whose `forward` ran."""
        monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
        calls: list[str] = []
        for module in (eager, fused.kernels("cpu")):

            def forward(
                *args: Any, module: Any = module, original: Callable = module.forward, **options: Any
            ) -> Tensor:
                calls.append(module.__name__)
                return original(*args, **options)

            monkeypatch.setattr(module, "forward", forward)
        return calls

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_by_dtype(self, ran: list[str], dtype: torch.dtype) -> None:
        fake_quantize(torch.ones(2, dtype=dtype), *SETTING.parameters, scaler=Scaler("ste"))
        assert ran == ["backends.fused.cpu" if dtype in (torch.float32, torch.bfloat16) else "backends.eager"]

    def test_by_scaler(self, ran: list[str]) -> None:
        register_scaler("cubic")(lambda xp, grad, error, delta, alpha: 1 + delta * error**3)
        try:
            fake_quantize(torch.ones(2), *SETTING.parameters, scaler=Scaler("cubic"))
        finally:
            unregister_scaler("cubic")
        assert ran == ["backends.eager"]

    def test_a_named_one_does_not_yield(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.ones(2, dtype=torch.float64)
        with pytest.raises(BackendUnavailableError, match="ask for 'eager'"):
            fake_quantize(x, *SETTING.parameters, scaler=Scaler("ste"), backend="fused")
        monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "fused")
        with pytest.raises(BackendUnavailableError, match="ask for 'eager'"):
            fake_quantize(x, *SETTING.parameters, scaler=Scaler("ste"))

    def test_when_compiled_by_the_measurement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The operator, which is the faster one."""
        monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
        assert_compiled_equals_eager(None, SETTING.parameters, {OPERATOR})

    def test_a_scaler_that_is_registered_no_more_is_refused_at_once(self) -> None:
        register_scaler("cubic")(lambda xp, grad, error, delta, alpha: 1 + delta * error**3)
        scaler = Scaler("cubic")
        unregister_scaler("cubic")
        with pytest.raises(UnknownNameError, match="unknown scaler 'cubic'"):
            fake_quantize(torch.ones(2), *SETTING.parameters, scaler=scaler)


def test_a_compiled_graph_adds_up_no_sum_that_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    backward = fused.backward
    monkeypatch.setattr(fused, "backward", lambda *a, needs, **o: asked.append(needs) or backward(*a, needs=needs, **o))
    step = torch.tensor(SETTING.step, requires_grad=True)
    compiled = torch.compile(fake_quantize, fullgraph=True, backend="aot_eager")
    y = compiled(data().requires_grad_(), step, SETTING.lower, SETTING.upper, scaler=Scaler(*EWGS), backend="fused")
    y.nan_to_num().sum().backward()
    assert asked == [(True, False, False)]
    assert step.grad is not None


@pytest.mark.parametrize("backend", [None, "fused", "eager"])
def test_tensors_without_data_outside_of_a_graph(backend: str | None) -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, requires_grad=True)
        y = fake_quantize(x, *SETTING.parameters, scaler=Scaler(*EWGS), backend=backend)
        y.sum().backward()
        assert isinstance(y, FakeTensor)
        assert x.grad.shape == y.shape == (2, 3)


class TestExport:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Parameter(torch.tensor(SETTING.step))

        def forward(self, x: Tensor) -> Tensor:
            return fake_quantize(x.relu(), self.step, SETTING.lower, SETTING.upper, scaler=Scaler(*EWGS))

    def test_the_operator_is_in_the_graph_and_its_gradients_behind_it(self) -> None:
        layer = self.Layer()
        program = torch.export.export(layer, (data(),))
        assert [str(node.target) for node in program.graph.nodes].count("backends.fake_quantize.default") == 1
        exported = program.module()
        y = exported(data())
        assert_equal(plain(y.detach()), plain(layer(data()).detach()))
        x = torch.nan_to_num(data())
        exported(x).square().sum().backward()
        layer(x).square().sum().backward()
        assert torch.equal(exported.step.grad, layer.step.grad)


class TestAutocast:
    """Nothing is cast: y has the dtype of x, whatever autocast says, and so have the gradients."""

    @pytest.mark.parametrize("name", ["fake_quantize", "fake_quantize_backward"])
    def test_both_operators_have_a_rule(self, name: str) -> None:
        for key in operator.AUTOCAST_KEYS:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"backends::{name}", key)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("backend", ["eager", "fused"])
    @pytest.mark.parametrize("compiled", [False, True], ids=["eagerly", "compiled"])
    def test_the_same_with_and_without(self, dtype: torch.dtype, backend: str, compiled: bool) -> None:
        function = torch.compile(fake_quantize, fullgraph=True, backend="aot_eager") if compiled else fake_quantize
        parameters = tuple(parameter(value, None) for value in SETTING.parameters)
        options = {"scaler": Scaler(*EWGS), "backend": backend}
        expected = run(function, data().to(dtype), *parameters, **options)
        with torch.autocast("cpu", torch.bfloat16):
            assert function(data().to(dtype), *parameters, **options).dtype == dtype
            ours = run(function, data().to(dtype), *parameters, **options)
        for one, other in zip(ours, expected, strict=True):
            assert_equal(one, other)


LAID_OUT = {
    "transposed": torch.linspace(-1, 1, 24).reshape(2, 3, 4).transpose(0, 1),
    "with gaps": torch.linspace(-1, 1, 72).reshape(3, 6, 2, 2).to(memory_format=torch.channels_last)[:, :3],
}


@pytest.mark.parametrize(
    ("backend", "dtype", "axis", "layout"),
    [
        (backend, dtype, axis, list(LAID_OUT)[(fused + half + (axis is not None)) % 2])
        for fused, backend in enumerate(("eager", "fused"))
        for half, dtype in enumerate((torch.float32, torch.bfloat16))
        for axis in (None, 0)
    ],
)
def test_opcheck(backend: str, dtype: torch.dtype, axis: int | None, layout: str) -> None:
    """Schema, fake implementation (shapes, dtypes, strides) and autograd formula agree with what runs.

    Every three of backend, dtype, axis (with noise where there is one) and layout meet in every combination.
    """
    noise = axis is not None
    x = LAID_OUT[layout].detach().to(dtype)
    step = torch.full((3,), 0.1) if axis == 0 else torch.tensor(0.1)
    upper = torch.tensor(0.7, requires_grad=True)
    scaler = ("gaussian_noise", 0.1, None, "printed") if noise else EWGS
    arguments = (x.requires_grad_(), step, torch.tensor(-0.8), upper, torch.ones_like(x) if noise else None, axis)
    torch.library.opcheck(operator.fake_quantize, (*arguments, backend, *scaler))
    plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    grad = torch.ones_like(plain[0])
    torch.library.opcheck(
        operator.fake_quantize_backward,
        (grad, *plain, backend, *scaler, [axis is None, False, True]),
        test_utils=("test_schema", "test_faketensor"),
    )
