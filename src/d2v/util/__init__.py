"""Helpers for every room: errors for users, atomic files, locks, a journal of finished pieces.

Imports: none.
"""
