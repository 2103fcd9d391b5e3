"""Cohorts: the CSV of cases, its splits, marks of what matters, and checks before work begins."""

from glimpse.cohort.manifest import Case, Cohort, CohortError

__all__ = ["Case", "Cohort", "CohortError"]
