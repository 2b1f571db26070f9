"""Fixtures that run a test once per backend."""

import pytest

from tests.backends.cases import CASES, OTHER_CASES, Case


@pytest.fixture(scope="session", params=CASES)
def backend(request: pytest.FixtureRequest) -> Case:
    """Each backend in turn."""
    return request.param


@pytest.fixture(scope="session", params=OTHER_CASES)
def other(request: pytest.FixtureRequest) -> Case:
    """Each backend but the reference, to be compared with it."""
    return request.param
