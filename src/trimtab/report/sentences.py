"""The sentences of what outcomes have to say beside their numbers: one for each code of a :class:`~trimtab.records.Remark`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from trimtab.records import Findings, Remark
from trimtab.report.words import count, duration, percent

_ENDS = {"diverged": "diverged", "failed": "failed", "no_effect": "without effect", "not_run": "not run"}


def sentences(remarks: Sequence[Remark | str] | str) -> tuple[str, ...]:
    """Each remark as a sentence; texts stay as they are. What another version said that has no sentence here shows its values."""
    if isinstance(remarks, str):  # of an older version
        return (remarks,) if remarks else ()
    return tuple(one if isinstance(one, str) else _said(one) for one in remarks)


def _said(remark: Remark) -> str:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return vars(English)[remark.code](**remark.values)
    values = ", ".join(f"{name} {value}" for name, value in remark.values.items())
    return f"{remark.code.replace('_', ' ')}{': ' * bool(values)}{values}."


def _of(recipe: str) -> str:
    return f"{recipe}: " if recipe else ""


def _part(share: float) -> str:
    return "at the end of a run" if share > 0.95 else f"after {percent(share)} of a run"


def _beside(value: float, than: float) -> str:
    return f": {value:.4g}, not {than:.4g}" if math.isfinite(value) and math.isfinite(than) else ""


class English:
    """A sentence for each code, which is the name of the method and takes the values of the remark by name."""

    # -- an arm ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def no_pair() -> str:
        return "No seed on which both runs ended with a number: there is no difference to test."

    @staticmethod
    def one_pair() -> str:
        return "Only one paired seed: a single difference has no spread, so no interval and no p."

    @staticmethod
    def equal_differences(pairs: int, difference: float, bounded: bool) -> str:
        which = "equal" if difference else "zero"
        span = "the interval has no width" if bounded else "the interval is unbounded"
        return f"All {pairs} differences are {which}: p is that of the sign-flip test, and {span}."

    @staticmethod
    def left_out(seeds: int, of: int, **ends: int) -> str:
        sides = []
        for side in ("recipe", "untreated"):
            said = [f"{ends[key]} {text}" for end, text in _ENDS.items() if (key := f"{side}_{end}") in ends]
            sides += [f"{side}: {', '.join(said)}"] * bool(said)
        return f"Not in the differences: {seeds} of {count(of, 'seed')} ({'; '.join(sides)})."

    @staticmethod
    def diverged_on_both_sides(untreated: int, treated: int, p: float) -> str:
        return (
            f"Untreated, {count(untreated, 'seed')} diverged that did not with the recipe; "
            f"with the recipe, {count(treated, 'seed')} that did not untreated (exact two-sided McNemar p = {p:.3g})."
        )

    @staticmethod
    def diverged_untreated(seeds: int, p: float, counted: bool = False) -> str:
        each = (
            "each is a win as large as the largest difference"
            if seeds > 1
            else "a win as large as the largest difference"
        )
        speaks = each if counted else "this speaks for the recipe and is not part of the effect"
        return (
            f"Untreated, {count(seeds, 'seed')} diverged that did not with the recipe: {speaks} "
            f"(exact two-sided McNemar p = {p:.3g})."
        )

    @staticmethod
    def diverged_treated(seeds: int, p: float) -> str:
        return f"With the recipe, {count(seeds, 'seed')} diverged that did not untreated (exact two-sided McNemar p = {p:.3g})."

    @staticmethod
    def paired(correlation: float, saved: float) -> str:
        times = f"more than {999:,}" if saved > 999 else f"{saved:.2g}"
        worth = f"sharing it saved {times} times the runs" if saved > 1.2 else "sharing it saved nothing"
        return f"The two runs of a seed correlate with {correlation:.2f}: {worth}."

    @staticmethod
    def beyond(low: float, high: float, samples: int, seeds: int) -> str:
        return (
            f"Of other samples of the same kind the interval is [{low:.3g}, {high:.3g}] (two-way, over {count(seeds, 'seed')} and {count(samples, 'sample')} "
            "held out)."
        )

    @staticmethod
    def of_version(files: int, elsewhere: Sequence[str] = ()) -> str:
        said = f"{count(files, 'Python file')} of this version {'are others' if files != 1 else 'is another one'}; data and configuration are "
        more = ", ".join(elsewhere[:3]) + (f" and {len(elsewhere) - 3} more" if len(elsewhere) > 3 else "")
        return f"{said}as they are now{f', and so are {more}, which trials do not have to themselves' if more else ''}."

    @staticmethod
    def reason(said: str) -> str:
        return f"Reason: {said}."

    @staticmethod
    def idle_part(said: str) -> str:
        return f"A part of it {said}."

    # -- what a comparison can show --------------------------------------------------------------------------------------

    @staticmethod
    def reach(pairs: Sequence[int], smallest: Sequence[float], alpha: float, needed: int) -> str:
        least, test = [f"{p:.3g}" for p in smallest], "an exact two-sided sign-flip test can reach is"
        if len(pairs) == 1:
            said = f"With {pairs[0]} paired seeds the smallest p {test} {least[0]}"
        else:
            said = f"The smallest p {test} {least[0]} for a recipe with {pairs[0]} paired seeds and {least[-1]} for one with {pairs[-1]}"
        return f"{said}; to reach {alpha:.3g} takes {needed} seeds." if pairs[0] < needed else f"{said}."

    @staticmethod
    def looks(made: Sequence[int], level: float) -> str:
        *before, last = made
        seeds = f"{', '.join(map(str, before))} and {count(last, 'seed')}" if before else count(last, "seed")
        return (
            f"It was looked at after {seeds}, to end as soon as it was decided: the {100 * level:g} % interval "
            "is so wide that it holds at all looks together. The sign-flip p speaks of the last look alone."
        )

    @staticmethod
    def looks_cut(seconds: float, seeds: int) -> str:
        return f"The budget of {seconds:g} s was over after {count(seeds, 'seed')}, before it was decided. Give more, or none."

    @staticmethod
    def of_log(number: int, alpha: float, log: str) -> str:
        return (
            f"Decision {number} of {log}: it may be kept falsely with probability {alpha:.2g}, so that all that are kept there are right, with "
            "probability 0.95; p is raised for that. What does not look better is given up early."
        )

    @staticmethod
    def few_for_log(seeds: int, needed: int) -> str:
        return f"With {count(seeds, 'seed')} at most nothing can be as sure as that: it takes about {needed}."

    @staticmethod
    def drawn_signs(above: int, patterns: int) -> str:
        return f"Above {above} seeds the sign-flip p is estimated from {patterns:,} random sign patterns."

    @staticmethod
    def normal_differences(level: float) -> str:
        percent = f"{level * 100:g} %"
        return (
            f"The {percent} t interval assumes roughly normal differences; "
            f"with skewed ones at few seeds it covers the true mean less often than {percent}."
        )

    @staticmethod
    def no_pairs() -> str:
        return "No recipe has two paired seeds, so there is no interval and no test: run more seeds."

    @staticmethod
    def several_tested(recipes: int, edits: bool = False) -> str:
        noun = "arm" if edits else "recipe"
        return (
            f"With {recipes} {noun}s tested, one looks good by chance more easily: p Holm and the verdicts are corrected for that. "
            f"Intervals and sign-flip p are not; each holds for one {noun} alone."
        )

    @staticmethod
    def lost_seeds_counted() -> str:
        return (
            "Seeds that diverged, failed or changed nothing are counted, not averaged in; those alone that only the untreated run lost, by "
            "diverging, count as wins."
        )

    @staticmethod
    def own_splits() -> str:
        return (
            "All runs share one data set, of which the seeds hold out different samples, or in different orders. "
            "The result speaks about this data set, not about others."
        )

    @staticmethod
    def one_data_set() -> str:
        return (
            "All runs share one data set; the seed varies what the script draws, its split of the data too, if it draws one. "
            "The result speaks about this data set, not about others."
        )

    @staticmethod
    def draws_nothing() -> str:
        return "Every seed gave the same run, without it and with it: nothing is drawn at random, and one run decides."

    # -- a confirmation --------------------------------------------------------------------------------------------------

    @staticmethod
    def sooner(recipe: str, metric: str, steps: float, of: float, level: float, at_once: bool) -> str:
        return (
            f"With {recipe} the {metric} is better after {steps:,.0f} steps than that of the untreated run ever is in its {of:,.0f} "
            f"({level:.4g}): {'at least ' if at_once else ''}{of / steps:.3g} times fewer"
            + (" (its first evaluation; it may be there sooner)." if at_once else ".")
        )

    @staticmethod
    def picks_by_metric(technique: str, recipe: str = "") -> str:
        return (
            f"{_of(recipe)}{technique} picks the weights by the metric that judges them here, so this effect is somewhat too good: measure "
            "the result once more on data that played no part in it."
        )

    @staticmethod
    def no_spread(seeds: int, effect: float, p_sign: float, recipe: str = "") -> str:
        return (
            f"{_of(recipe)}All {seeds} confirming seeds changed by exactly {effect:+.4g}, so there is no spread to make an "
            f"interval of (exact sign-flip p = {p_sign:.3g}). A metric with finer steps, such as a loss, would say more."
        )

    @staticmethod
    def not_proven(recipe: str = "") -> str:
        return f"{_of(recipe)}The interval of the confirmed effect includes zero: the improvement is not proven at this number of seeds."

    @staticmethod
    def best_of_proven(recipes: int, of: str = "recipe") -> str:
        return f"The winner is the best of {recipes} proven {of}s on the seeds that prove them, which flatters its effect a little."

    @staticmethod
    def plain_rate(gained: float, rate: str, rate_gained: float, share: float = 0.0) -> str:
        where = (
            f"In the race, {_part(share)}, the winner had gained" if share else "On the search seeds the winner gained"
        )
        return (
            f"{where} {gained:+.4g}; the best of the plain changes of learning rate, {rate}, gained {rate_gained:+.4g}."
        )

    # -- what was looked for ---------------------------------------------------------------------------------------------

    @staticmethod
    def leads(recipe: str, metric: str, before: float, after: float, share: float) -> str:
        return f"{recipe} leads: {metric} {before:.3g} -> {after:.3g} {_part(share)}, on one seed"

    @staticmethod
    def behind(share: float, leader: str, value: float = math.nan, than: float = math.nan) -> str:
        return f"Clearly behind {leader} {_part(share)}{_beside(value, than)}."

    @staticmethod
    def no_better(share: float, value: float = math.nan, than: float = math.nan) -> str:
        return f"No better than untreated {_part(share)}{_beside(value, than)}."

    @staticmethod
    def not_worth(than: str) -> str:
        return f"Not enough better than {than} to be taken in its place."

    @staticmethod
    def ended(how: str, why: str) -> str:
        return f"{_ENDS.get(how, how).capitalize()}: {why}."

    @staticmethod
    def interrupted(proven: bool) -> str:
        return "Interrupted: this is the best that was known until then, on one seed, and not proven. Start the same command again and it goes on."

    @staticmethod
    def would_decide(seeds: int, seconds: float) -> str:
        return f"{seeds} seeds would decide, if the effect is as large as it looks; about {duration(seconds)}:"

    @staticmethod
    def would_decide_on(arm: str, seeds: int, runs: int, seconds: float) -> str:
        return (
            f"To decide on {arm}: the same command with --until-decided --seeds {seeds}, if the effect is as it looks. {count(runs, 'more run')} "
            f"at most, about {duration(seconds)}; those made are kept."
        )

    @staticmethod
    def would_decide_on_none(arm: str, seeds: int) -> str:
        return f"No number of seeds up to {seeds} is likely to decide on {arm}, if the effect is as it looks."

    @staticmethod
    def same_within(margin: float, seeds: int) -> str:
        noise = f", the standard deviation of the untreated subject over {count(seeds, 'seed')}" if seeds else ""
        return f"Differences below {margin:.3g}{noise}, count as none: an interval within them is the same."

    @staticmethod
    def cheaper(recipe: str, gained: float, cost: float, most: str, most_gained: float, most_cost: float) -> str:
        return (
            f"In the race {most} gained {most_gained:+.3g} for {most_cost:.1f} times the cost of a step, {recipe} {gained:+.3g} for "
            f"{cost:.1f} times: nearly as much at a lower price, so {recipe} was taken."
        )

    @staticmethod
    def first_steps(steps: int, of: int) -> str:
        first = (
            f"first {steps:,} of {count(of, 'step')}"
            if of
            else "first step"
            if steps == 1
            else f"first {steps:,} steps"
        )
        return f"Every run was ended after its {first}: nothing is known of what comes behind."

    @staticmethod
    def best_rate(steps: int, factor: float) -> str:
        if factor == 1:
            return f"Over the first {steps} steps neither ten times nor a tenth of the rate lowers the loss more."
        return f"Over the first {steps} steps {factor:g} times the rate lowers the loss most, of rates ten times apart."

    @staticmethod
    def no_remedy() -> str:
        return (
            "No technique is known to help against what was found; the cause has to be mended in the code or the data."
        )

    @staticmethod
    def no_fault(asked: int, rules: Sequence[str], reasons: Sequence[str], notes: bool, tried: bool = False) -> str:
        silence = Findings((), asked, dict(zip(rules, reasons, strict=True))).silence
        anyway = "; what may help all the same was tried." if tried else "; to try what often helps all the same:"
        return f"{silence}{', but for notes' if notes else ''}. That is no proof of health{anyway}"

    @staticmethod
    def command(text: str) -> str:
        return text

    @staticmethod
    def none_better(of: str) -> str:
        seeds = "search seeds" if of == "remedy" else "seed of the search"
        return f"No {of} was better than the untreated run on the {seeds}; nothing was confirmed."

    @staticmethod
    def budget_over(seconds: float, of: str) -> str:
        return f"The budget of {seconds:g} s was over before a {of} could be tried. Give more, or none."

    @staticmethod
    def few_raced(raced: int, of: int) -> str:
        return f"Of the {of} remedies that the notes name, those {raced} of which most was expected were tried."

    @staticmethod
    def not_reached(seconds: float, recipes: Sequence[str]) -> str:
        return f"The budget of {seconds:g} s did not reach for: {'; '.join(recipes)}."

    @staticmethod
    def trials_cut(seconds: float, missing: int, of: int) -> str:
        return f"The budget of {seconds:g} s was over before {missing} of {of} trials had ended."

    @staticmethod
    def searched(seed: int, recipes: int, by_doctor: int, of: str = "recipe", **ends: int) -> str:
        doctored = ends.get("pruned", 0) and by_doctor
        by = " by the doctor" if doctored == ends.get("pruned", 0) else f" ({by_doctor} by the doctor)"
        texts = {"ok": "came to an end", "pruned": f"pruned{by if doctored else ''}"} | _ENDS
        said = ", ".join(f"{ends[end]} {text}" for end, text in texts.items() if end in ends)
        return f"{of.capitalize()}s tried on seed {seed}: {recipes}{f', of which {said}' if said else ''}."

    @staticmethod
    def attempt_lost(recipe: str, end: str, why: str) -> str:
        return f"{recipe} {_ENDS[end]}: {why}."

    @staticmethod
    def kept(recipes: int) -> str:
        return f"Kept from before and not repeated: {recipes} of these."

    @staticmethod
    def impossible(recipes: int, first: str, why: str) -> str:
        return f"Proposed and impossible: {recipes}, the first was {first}: {why}"

    @staticmethod
    def search_exhausted(trials: int, of: str = "recipe") -> str:
        return f"The search ended before {trials} trials: the space holds no other {of}."

    @staticmethod
    def search_cut(trials: int, seconds: float) -> str:
        return f"The search ended before {trials} trials: the budget of {seconds:g} s was over."

    # -- how much a number moves by chance -------------------------------------------------------------------------------

    @staticmethod
    def shares_nothing() -> str:
        return (
            "A difference can be seen if it would be proven four times of five, between two versions that share nothing. What the runs of a "
            "seed have in common makes it smaller when they are compared in pairs, as trimtab compare does."
        )

    @staticmethod
    def parts_alone() -> str:
        return (
            "Initialization is all that is drawn until the first optimizer is made, data included that the script draws there; order is all that "
            "is drawn from then on, and by generators of the script's own. Each varied while the other stayed as it was, so they need not add up."
        )

    @staticmethod
    def stands_still(part: str, seeds: int) -> str:
        what = {"init": "the initialization", "order": "the order"}.get(part, "all that is random")
        return f"All {seeds} seeds that vary {what} ended with the same number: it is too coarse to move, or nothing there is drawn."

    @staticmethod
    def of_samples(samples: int, error: float) -> str:
        return (
            f"Of other {count(samples, 'sample')} of the same kind, as many as are held out, the metric of one and the same network would move by "
            f"{error:.2g}, however many seeds are run."
        )

    # -- how trials were kept apart --------------------------------------------------------------------------------------

    @staticmethod
    def ran_in_copies(why: str, linked: int) -> str:
        return (
            f"A process cannot have a view of files of its own here ({why}), so every trial ran in a copy of the folder. Files of "
            f"more than {linked} MB are links in it, which become copies when Python opens them to write."
        )

    @staticmethod
    def ran_in_one_folder(why: str) -> str:
        return (
            f"Trials could not have folders of their own ({why}). They ran one at a time, and what Python was seen to change was put "
            "back after each."
        )

    @staticmethod
    def wrote_outside(paths: Sequence[str], more: int) -> str:
        others = f" and {more} more" if more else ""
        return (
            f"The script writes outside of its folder: {', '.join(paths)}{others}. So its trials ran one at a time, and what "
            "was there before was put back after each."
        )

    @staticmethod
    def failed_beside_others(why: str) -> str:
        return f"Beside others, a trial failed ({why}); alone, it did not. So trials ran one at a time from then on."

    @staticmethod
    def not_stacked(subject: str, why: str) -> str:
        return f"Not all seeds of {subject} were trained together in one pass: {why}."

    @staticmethod
    def not_put_back(paths: Sequence[str]) -> str:
        return f"Could not be put back: {'; '.join(paths)}."
