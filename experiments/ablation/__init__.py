"""Ablations: rows that differ in one thing, trained where needed and judged on the same faces. Above all."""

from __future__ import annotations

from experiments.ablation.plan import Plan, PlanError, load_plan

__all__ = ['Plan', 'PlanError', 'load_plan']
