"""Trials: subjects, paired seeds, statistics, the search for a treatment, and that of a space of recipes.

Each of them is imported from the module that has it: who only watches needs the subjects alone.
"""
