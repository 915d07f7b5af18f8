"""Search for hyper-parameters and architectures: many training runs, each chosen from the results of the earlier ones.

`Parameter` describes one searched option; it can be imported without torch and without Optuna.
"""

from vidseg.search.parameter import Parameter

__all__ = ["Parameter"]
