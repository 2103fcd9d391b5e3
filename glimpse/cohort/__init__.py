"""Cohorts: the CSV that lists the cases, its splits, marks of what matters, and checks before training begins."""

from glimpse.cohort.manifest import Case, Cohort, CohortError

__all__ = ["Case", "Cohort", "CohortError"]
