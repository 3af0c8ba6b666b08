"""Sides of a graph that is recorded are symbols, which no check of types takes for numbers."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def unchecked_shapes():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
