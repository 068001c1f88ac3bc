"""Probabilities and their natural log-odds."""

from __future__ import annotations

import math

# Log-odds of a probability are taken within this, so that no single one decides for ever.
MAX_LOG_ODDS = 30.0


def probability_of(log_odds: float) -> float:
    """The probability, 0 to 1, that natural log-odds stand for."""
    if log_odds < 0:
        odds = math.exp(log_odds)
        return odds / (1 + odds)
    return 1 / (1 + math.exp(-log_odds))


def log_odds_of(probability: float) -> float:
    """The natural log-odds of a probability, within ±``MAX_LOG_ODDS``."""
    least = probability_of(-MAX_LOG_ODDS)
    probability = min(max(probability, least), 1 - least)
    return math.log(probability / (1 - probability))
