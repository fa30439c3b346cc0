"""Checks that need no tolerance of their own, each with a control that must show a difference.

``rewrites``: the same result by another call (heads permuted, keys prepended, sequences apart). What comes back is
judged by the budget of the case, because a legal kernel may take other tiles for another shape. ``exact``: other inputs
whose effect is known bit by bit. ``check`` chooses and runs them.
"""
