"""What the Tune scripts share: options, presets, trials, curves, tables, figures."""
