"""Known mistakes, each of which somebody has made: the simulation must find every one of them.

Only the simulation can switch them on.
"""

from __future__ import annotations

from tests.simulation.planted_core import CORE
from tests.simulation.planted_shell import SHELL
from tests.simulation.planted_sinks import SINKS

BUGS = (*SHELL, *CORE, *SINKS)
