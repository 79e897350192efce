"""The forward recursion of hidden Markov models and the smoother that follows it."""

from statewise.ops.hidden_markov.op import hidden_markov, hidden_markov_smoother

__all__ = ["hidden_markov", "hidden_markov_smoother"]
