"""The local engine: an EnSync Engine of one process, for programs, tests and examples."""
