"""Plots of the report: one file a plot, each with a data function (records -> arrays) and a draw function (arrays -> SVG).

=====================  ==========================================================
``curves``             series of one training over its steps
``seeds``              the same curve over all seeds of two arms, as bands
``gradient_profile``   norm of each layer's gradient over the sampled steps
``heatmap``            one number per layer over the sampled steps
``trials``             the effect of every arm with its interval (forest plot)
``trade_off``          what every arm of a race gains, against what it costs
``schedule``           a closed form by itself (``trimtab catalogue NAME --plot``)
``search_history``     every trial of a search, and the best so far
``importances``        how much each axis of a search decides
``coordinates``        every trial of a search as a line over the axes (parallel coordinates)
=====================  ==========================================================

``canvas`` turns a matplotlib figure into SVG for a page; ``decimate`` thins long series without losing a spike.
"""
