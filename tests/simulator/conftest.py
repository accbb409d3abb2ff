"""Fixtures of the simulator tests."""

from tests.simulator.delivery import site as site
