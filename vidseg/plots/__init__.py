"""Pictures: what was converted, how training went, what is taken for what.

Everything is drawn on matplotlib's Agg canvas through objects, without pyplot: no window, no global state.
"""

from vidseg.plots.confusion import plot_confusion
from vidseg.plots.contact import contact_sheet
from vidseg.plots.curves import plot_curves

__all__ = ["contact_sheet", "plot_confusion", "plot_curves"]
