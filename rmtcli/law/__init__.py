"""The formulas of random matrix theory, each written once, with its source.

All values are eigenvalues of WᵀW/n, so that the law of the noise does not depend on the size of a
layer, and W has n rows and p ≤ n columns. The functions are pure: they read no files and know
nothing of layers or estimators. Roots are found by the package's own bracketing, because importing
``scipy.optimize`` takes longer than the fit of many layers.
"""
