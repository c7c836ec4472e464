"""Trained policies outside of training: files, editing, acting and export, all without Ray."""
