"""Defaults that are set before the libraries that read them load."""

import os

import pytest

from prunescope.assets.instance import settings

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("chosen", [None, *CHOICES])
def test_waiting_threads_sleep_unless_the_user_chose_otherwise(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CHOICES:
        monkeypatch.setenv(name, "")  # so that the test restores it
        monkeypatch.delenv(name)
    if chosen:
        monkeypatch.setenv(chosen, "7")
    settings.let_waiting_threads_sleep()
    found = {name: os.environ[name] for name in CHOICES if name in os.environ}
    assert found == ({chosen: "7"} if chosen else {"GOMP_SPINCOUNT": "2000"})
