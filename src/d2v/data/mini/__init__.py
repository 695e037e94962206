"""The miniature's data sets, made from small open packages."""
