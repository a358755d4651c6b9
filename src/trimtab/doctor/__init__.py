"""The doctor: rules that read the record of a run and say, with evidence, what is wrong and what to try."""

from trimtab.doctor.judge import diagnose

__all__ = ["diagnose"]
