"""What every room may use: errors for users, whole files, locks, a journal of finished pieces.

Imports: none.
"""
