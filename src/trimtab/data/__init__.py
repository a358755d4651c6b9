"""Preprocessing of inputs."""

from trimtab.data.standardize import Standardize

__all__ = ["Standardize"]
