"""Shared code of the Tune scripts: options, presets, trials, curves, tables, figures."""
