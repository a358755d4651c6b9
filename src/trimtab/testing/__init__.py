"""Suites for members: what a technique, a rule, a signal, a plot, a part, an outcome or an engine must hold, wherever it comes from.

Ours are tested by exactly these. Who writes a member in another package (see :mod:`trimtab.members`) runs one function over it,
in a test of its own::

    from trimtab.testing import check_technique
    from my_package.decay import MyDecay

    def test_my_decay():
        check_technique(MyDecay)

Each raises ``AssertionError`` with what must hold, and for which member.
"""

from trimtab.testing.engines import check_engine
from trimtab.testing.outcomes import check_outcome
from trimtab.testing.parts import check_part
from trimtab.testing.plots import check_plot
from trimtab.testing.rules import check_rule
from trimtab.testing.signals import check_signal
from trimtab.testing.techniques import check_technique

__all__ = ["check_engine", "check_outcome", "check_part", "check_plot", "check_rule", "check_signal", "check_technique"]
