"""The language that tests of decoding share."""

from letter_builds import many_words

__all__ = ["many_words"]
