"""Judging folders of restored faces: pictures, metrics with their networks, reports. Above archs, losses, metrics."""

from __future__ import annotations

from basicsr.evaluation.builders import Settings
from basicsr.evaluation.report import write_report
from basicsr.evaluation.runner import Evaluation, evaluate, summary
from basicsr.metrics.protocol import Protocol, load_protocol
from basicsr.metrics.table import EvaluationError

__all__ = [
    'Evaluation',
    'EvaluationError',
    'Protocol',
    'Settings',
    'evaluate',
    'load_protocol',
    'summary',
    'write_report',
]
