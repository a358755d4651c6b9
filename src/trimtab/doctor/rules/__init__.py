"""Rules: one problem each, in one file each. A rule reads the record of a training and returns findings."""

from trimtab.doctor.rule import Rule, in_causal_order
from trimtab.doctor.rules.dead_relu import dead_relu
from trimtab.doctor.rules.exploding_gradient import exploding_gradient
from trimtab.doctor.rules.lr_too_high import lr_too_high
from trimtab.doctor.rules.lr_too_low import lr_too_low
from trimtab.doctor.rules.nan_source import nan_source
from trimtab.doctor.rules.overfitting import overfitting
from trimtab.doctor.rules.slow_convergence import slow_convergence
from trimtab.doctor.rules.unscaled_inputs import unscaled_inputs
from trimtab.doctor.rules.unshuffled_data import unshuffled_data
from trimtab.doctor.rules.vanishing_gradient import vanishing_gradient
from trimtab.members import leave_out, members_of, of_others

# Where they tie, findings stand in this order; causes always stand before what they bring about.
OWN: tuple[Rule, ...] = (
    nan_source,
    unscaled_inputs,
    unshuffled_data,
    exploding_gradient,
    lr_too_high,
    vanishing_gradient,
    dead_relu,
    lr_too_low,
    overfitting,
    slow_convergence,
)


def all_rules() -> tuple[Rule, ...]:
    """These and those that other packages bring, causes before what they bring about."""
    whose = {rule.problem: "trimtab" for rule in OWN}
    for member in members_of("rules"):
        problem = member.thing.problem
        if problem in whose:
            leave_out(
                "rules",
                member.thing,
                f"it finds {problem!r}, a name that {whose[problem]} has already; give it another",
            )
        whose.setdefault(problem, member.package)
    return in_causal_order((*OWN, *of_others("rules")))


__all__ = ["OWN", "Rule", "all_rules", *(rule.problem for rule in OWN)]
