"""Signals that end a study, without one."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from lorasa_rllib.studies import termination


def test_a_signal_delivered_twice_counts_once_and_a_later_one_ends(monkeypatch):
    monkeypatch.setattr(termination, "_give_up", lambda: None)
    termination._asked.clear()
    try:
        termination._ask(signal.SIGTERM, None)
        termination._ask(signal.SIGTERM, None)
        assert termination.exit_status() == 128 + signal.SIGTERM
        termination._at[0] -= termination.SAME
        with pytest.raises(SystemExit):
            termination._ask(signal.SIGTERM, None)
    finally:
        termination._asked.clear()
        termination._received.clear()


def test_what_starts_inside_is_spared_and_what_starts_later_is_not():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    with termination.spared():
        inside = subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
    assert inside.stdout.read(1) == b"1"
    inside.send_signal(signal.SIGTERM)
    inside.communicate(b"\n", timeout=20)
    assert inside.returncode == 0
