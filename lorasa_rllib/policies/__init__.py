"""Trained policies outside training: files anyone may open, editing, acting and export, all without Ray."""
