"""The data sets of the miniature, made from small open packages."""
