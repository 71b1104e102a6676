"""The programs that are measured: each runs in an environment of its own, on one core.

What they share is plain Python, so that it can be imported beside any SDK.
"""
